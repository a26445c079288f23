"""Answers of encoded questions against plain ``generate`` under ``prune``."""

import pytest
import torch

from support.checkpoint import save
from support.failing import Failing
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.compare.panel import AnsweringModel
from vflowopt.errors import ImportanceError, InputError, PruningStateError
from vflowopt.strategies.reading import read_strategy
from vflowopt_hf.adapters import llava_onevision

STRATEGIES = {
    "progressive": Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5),
    "random": read_strategy("random@0.3,seed=2")(LAYERS),
    "diverse": read_strategy("divprune@0.3")(LAYERS),
    "two vision layers": read_strategy("hiprune@0.3")(LAYERS),
    "inside the decoder": read_strategy("fastv@0.6")(LAYERS),
    "everything": read_strategy("mean-attention@1")(LAYERS),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return llava_onevision.load(save(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def questions(loaded):
    sizes = [[(42, 42)], [(80, 60)], [(30, 120), (42, 42)]]
    return [image_inputs(loaded.model, [size], seed=seed) for seed, size in enumerate(sizes)]


@pytest.fixture(scope="module", params=[True, False], ids=["kept", "encoded again"])
def panel(request, loaded, questions):
    return loaded.panel(iter(questions), 5, keep=request.param)


def observed(model, inputs):
    """Answer, final-norm hidden state of the prompt's last token, and rows of every layer of the prefill."""
    states, rows = [], []
    decoder = model.model.language_model
    handles = [decoder.register_forward_hook(lambda _m, _a, out: states.append(out.last_hidden_state[0, -1]))]
    handles += [layer.register_forward_hook(lambda _m, _a, out: rows.append(out.shape[1])) for layer in decoder.layers]
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    for handle in handles:
        handle.remove()
    return ids[0, inputs["input_ids"].shape[1] :], states[0].double(), rows[:LAYERS]


@pytest.mark.parametrize("name", STRATEGIES)
def test_answers_are_those_of_generate(name, loaded, questions, panel):
    for number, inputs in enumerate(questions):
        told = panel.answer(number, STRATEGIES[name])
        _, full, _ = observed(loaded.model, inputs)
        with prune(loaded.model, STRATEGIES[name], processor=loaded.processor) as pruning:
            ids, last, rows = observed(loaded.model, inputs)
            report = pruning.report
        assert told.text == loaded.processor.batch_decode([ids], skip_special_tokens=True)[0].strip()
        assert told.similarity == pytest.approx(float(last @ full / last.norm() / full.norm()), abs=1e-6)
        assert told.units == report.units
        assert told.tokens[0] == sum(unit.tokens for unit in report.units)
        assert told.tokens[1:] == tuple(map(sum, zip(*(unit.counts for unit in report.units), strict=True)))
        assert told.kv_cache_bytes == report.kv_cache_bytes
        assert rows == list(report.sequence_lengths)


def test_unpruned_answers(loaded, questions, panel):
    assert len(panel) == len(questions)
    for number, inputs in enumerate(questions):
        told = panel.answer(number, None)
        ids, _, _ = observed(loaded.model, inputs)
        assert told.text == loaded.processor.batch_decode([ids], skip_special_tokens=True)[0].strip()
        assert (told.similarity, told.units) == (1.0, ())
        everything = panel.answer(number, STRATEGIES["everything"])
        assert everything.text == told.text
        assert everything.tokens == (told.tokens[0], told.tokens[0])
        assert (everything.flops, everything.kv_cache_bytes) == (told.flops, told.kv_cache_bytes)
        with torch.no_grad():
            cache = loaded.model(**inputs, use_cache=True).past_key_values
        assert told.kv_cache_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_images_are_encoded_once_if_kept(loaded, questions):
    runs = []
    handle = loaded.model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    kept, again = loaded.panel(questions, 2), loaded.panel(questions, 2, keep=False)
    assert len(runs) == 2 * len(questions)
    for panel, expected in ((kept, 0), (again, len(questions))):
        runs.clear()
        for number in range(len(questions)):
            panel.answer(number, STRATEGIES["random"])
        assert len(runs) == expected
    handle.remove()


def test_the_model_is_left_as_it_was(loaded, questions):
    def hooks():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in loaded.model.modules()]

    before = hooks(), sorted(vars(loaded.model.model))
    panel = loaded.panel(questions[:1], 2)
    failing = STRATEGIES["random"].model_copy(update={"scorer": Failing()})
    with pytest.raises(ImportanceError, match="has shape"):
        panel.answer(0, failing)
    assert (hooks(), sorted(vars(loaded.model.model))) == before


def test_refusals(loaded, questions):
    text = {"input_ids": torch.tensor([[7, 8, 9]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(InputError, match="question 2 has no image"):
        loaded.panel([questions[0], text], 2)
    with prune(loaded.model, STRATEGIES["random"]), pytest.raises(PruningStateError):
        loaded.panel(questions, 2)
    assert isinstance(loaded, AnsweringModel)
    assert not isinstance(tiny_onevision(), AnsweringModel)
