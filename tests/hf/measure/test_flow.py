"""Discrepancy of text tokens per layer, against upstream's own hidden states, unpruned and under explicit masks."""

import numpy as np
import pytest
import torch

from support.cases import llava_onevision, qwen2_vl
from support.failing import Failing
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import ImportanceError, InputError, PruningStateError, StrategyError
from vflowopt.plugins import find_adapter
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5, 0.6, 0.5), threshold=1.2, entropy_weight=0.4, cell=2.5)
EVERYTHING = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0))


@pytest.fixture
def model():
    return tiny_onevision()


def samples(model, sizes=((42, 42), (80, 60))):
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate(sizes)]


def upstream_states(subject, forward):
    """Upstream's output_hidden_states after each layer; the final norm is taken away, for it is recorded after it."""
    decoder, seen = subject.family.decoder(subject.model), []
    norm, decoder.norm = decoder.norm, torch.nn.Identity()
    decoder.config.output_hidden_states = True
    handle = decoder.register_forward_hook(lambda _m, _a, output: seen.append(output.hidden_states))
    try:
        forward()
    finally:
        handle.remove()
        decoder.norm, decoder.config.output_hidden_states = norm, False
    (states,) = seen
    assert len(states) == 1 + len(decoder.layers)
    return [state[0].double().numpy() for state in states[1:]]


def expected_flow(subject, batch, strategy):
    """(text, last) for cosine and l2, [layers] each."""
    ids = batch.inputs["input_ids"]
    with torch.no_grad(), subject.prune(strategy) as pruning:
        subject.model(**batch.inputs)
        plans = pruning.plan
    with torch.no_grad():
        full = upstream_states(subject, lambda: subject.model(**batch.inputs, use_cache=False))
    pruned = upstream_states(subject, lambda: Oracle(subject, batch, plans).logits(ids))
    first = 1 + max(int(placed.rows.max()) for placed in batch.placed)
    assert first < ids.shape[1]
    cosine, distance = [], []
    for a, b in zip(full, pruned, strict=True):
        pairs = list(zip(a[first:], b[first:], strict=True))
        cosine.append([1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs])
        distance.append([np.linalg.norm(x - y) / np.linalg.norm(x) for x, y in pairs])
    return {
        (tokens, measure): np.array([np.mean(each) if tokens == "text" else each[-1] for each in layers])
        for measure, layers in (("cosine", cosine), ("l2", distance))
        for tokens in ("text", "last")
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", [llava_onevision.CASE, qwen2_vl.CASE], ids=lambda case: case.family.name)
def test_against_upstream_hidden_states_unpruned_and_under_explicit_masks(case, attention):
    subject = Subject(case, attention)
    batches = [subject.batch(subject.image(1)), subject.batch(subject.several()), subject.batch(subject.video())]
    strategies = {"staged": subject.strategy(batches[0]), "late": subject.strategy(batches[0], (2,), cell=None)}
    inputs = [batch.inputs for batch in batches]
    flow = find_adapter(subject.model).flow(subject.model, inputs, strategies, processor=subject.processor)
    assert (flow.num_layers, flow.samples) == (subject.num_layers, 3)
    for found, (name, strategy) in zip(flow.strategies, strategies.items(), strict=True):
        assert (found.name, found.boundaries) == (name, strategy.schedule.boundaries)
        for index, batch in enumerate(batches):
            for key, values in expected_flow(subject, batch, strategy).items():
                np.testing.assert_allclose(found.values[key][index], values, atol=1e-5)
        assert found.mean("text", "l2")[-1] > 0.01  # the test compares something
    late = flow.strategies[1].values["text", "l2"]
    assert (late[:, :2] == 0).all()
    assert (late[:, 2:] > 0).all()


def test_keeping_everything_changes_exactly_nothing(model):
    flow = find_adapter(model).flow(model, samples(model), {"all": EVERYTHING})
    (found,) = flow.strategies
    assert found.retention == 1
    assert all((values == 0).all() for values in found.values.values())


def test_retention_is_that_of_the_exact_counts(model):
    data = samples(model)
    found = find_adapter(model).flow(model, data, {"s": STRATEGY}).strategies[0]
    assert found.retention == pytest.approx(find_adapter(model).evaluator(model, data).evaluate(STRATEGY).retention)


def test_images_are_encoded_once_and_each_strategy_costs_one_prefill(model):
    data, steps, calls = samples(model), [], {"tower": 0, "head": 0, "decoder": 0}
    for name, module in (
        ("tower", model.model.vision_tower),
        ("head", model.lm_head),
        ("decoder", model.model.language_model),
    ):
        module.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    find_adapter(model).flow(
        model, data, {"a": STRATEGY, "b": EVERYTHING}, on_task=lambda done, total: steps.append((done, total))
    )
    assert calls == {"tower": 2, "head": 0, "decoder": 2 + 2 * 3}
    assert steps == [(done, 6) for done in range(1, 7)]


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_the_model_is_left_as_found_also_after_an_error(model):
    (first, second), before = samples(model), hooks(model)
    configs = [id(module.config) for module in model.modules() if hasattr(module, "config")]
    with torch.no_grad():
        logits = model(**first).logits
    find_adapter(model).flow(model, [first], {"s": STRATEGY})
    failing = STRATEGY.model_copy(update={"scorer": Failing()})  # after the first strategy has run
    with pytest.raises(ImportanceError, match="has shape"):
        find_adapter(model).flow(model, [first, second], {"s": STRATEGY, "failing": failing})
    assert hooks(model) == before
    assert [id(module.config) for module in model.modules() if hasattr(module, "config")] == configs
    with torch.no_grad():
        assert (model(**first).logits == logits).all()


def test_what_cannot_be_measured_is_refused(model):
    flow, data = find_adapter(model).flow, samples(model, ((42, 42),))
    with pytest.raises(InputError, match="no strategy"):
        flow(model, data, {})
    with pytest.raises(StrategyError, match="stage 18"):
        flow(model, data, {"deep": Strategy.vflowopt(num_layers=28, retention=(0.5, 0.5, 0.5))})
    with pytest.raises(InputError, match="empty"):
        flow(model, [], {"s": STRATEGY})
    with pytest.raises(PruningStateError), prune(model, STRATEGY):
        flow(model, data, {"s": STRATEGY})
    silent = image_inputs(model, [[(42, 42)]])
    last = int(torch.nonzero(silent["input_ids"][0] == 1).max()) + 1
    silent |= {name: silent[name][:, :last] for name in ("input_ids", "attention_mask")}
    with pytest.raises(InputError, match="sample 1 ends with a visual token"):
        flow(model, [*data, silent], {"s": STRATEGY})
    holes = image_inputs(model, [[(42, 42)]])
    holes["attention_mask"][:, -2] = 0
    with pytest.raises(InputError, match="sample 0: the attention mask hides 1 tokens between others"):
        flow(model, [holes], {"s": STRATEGY})
