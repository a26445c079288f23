"""The search's objective on a tiny model."""

import pytest
import torch

from support.tiny import LAYERS, VIDEO, image_inputs, tiny_onevision, video_inputs
from vflowopt import Strategy, prune
from vflowopt.errors import InputError, PruningStateError
from vflowopt.plugins import find_adapter

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.4, cell=2.5)


def samples(model):
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate([(42, 42), (80, 60), (30, 120)])]


def final_states(model, inputs):
    """Final-norm hidden states [1, rows, features], observed at the decoder's output."""
    seen = []
    handle = model.model.language_model.register_forward_hook(lambda m, a, out: seen.append(out.last_hidden_state))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0][0].double()


def cosine(a, b):
    return float((a * b).sum() / a.norm() / b.norm())


@pytest.mark.parametrize("objective", ["last-token", "first-token", "mean-pooling", "top-3-tokens"])
def test_the_score_is_the_similarity_of_what_prune_computes(objective):
    model = tiny_onevision()
    data = [*samples(model), video_inputs(3)]
    evaluator = find_adapter(model).evaluator(model, data, objective=objective)
    expected = []
    for inputs in data:
        tail = int((inputs["input_ids"][0] > VIDEO).flip(0).int().cumprod(0).sum())
        full = final_states(model, inputs)
        with prune(model, STRATEGY):
            pruned = final_states(model, inputs)
        pairs = {
            "last-token": [(pruned[-1], full[-1])],
            "first-token": [(pruned[-tail], full[-tail])],
            "mean-pooling": [(pruned.mean(0), full.mean(0))],
            "top-3-tokens": [(pruned[-i], full[-i]) for i in (1, 2, 3)],
        }[objective]
        expected.append(sum(cosine(a, b) for a, b in pairs) / len(pairs))
    result = evaluator.evaluate(STRATEGY)
    assert result.score == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert result.nonfinite == 0


def test_retention_is_that_of_the_exact_counts():
    model = tiny_onevision()
    evaluator = find_adapter(model).evaluator(model, samples(model))
    expected = []
    for (layout,) in evaluator.units:
        counts = STRATEGY.schedule.counts(layout.tokens)
        expected.append(sum(2 * count for count in counts) / (LAYERS * layout.tokens))
    assert evaluator.evaluate(STRATEGY).retention == pytest.approx(sum(expected) / 3)


def test_keeping_everything_scores_one():
    model = tiny_onevision()
    keep = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0))
    assert find_adapter(model).evaluator(model, samples(model)).evaluate(keep).score == pytest.approx(1, abs=1e-6)


def test_an_evaluation_is_one_decoder_prefill_per_sample_and_nothing_else():
    model = tiny_onevision()
    evaluator = find_adapter(model).evaluator(model, samples(model))
    calls = {"tower": 0, "head": 0, "decoder": 0}
    for name, module in (
        ("tower", model.model.vision_tower),
        ("head", model.lm_head),
        ("decoder", model.model.language_model),
    ):
        module.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    evaluator.evaluate(STRATEGY)
    assert calls == {"tower": 0, "head": 0, "decoder": 3}


def test_similarity_that_is_not_finite_counts_as_minus_one():
    model = tiny_onevision()
    evaluator = find_adapter(model).evaluator(model, samples(model))
    evaluator.samples[1].target.fill_(float("nan"))
    result = evaluator.evaluate(STRATEGY)
    others = find_adapter(model).evaluator(model, [samples(model)[i] for i in (0, 2)]).evaluate(STRATEGY).score
    assert result.nonfinite == 1
    assert result.score == pytest.approx((2 * others - 1) / 3, abs=1e-6)


def test_the_fingerprint_tells_models_samples_and_objectives_apart():
    model, other = tiny_onevision(), tiny_onevision(seed=1)
    adapter = find_adapter(model)
    prints = {
        adapter.evaluator(model, samples(model)).fingerprint,
        adapter.evaluator(model, samples(model)[:2]).fingerprint,
        adapter.evaluator(other, samples(other)).fingerprint,
        adapter.evaluator(model, samples(model), objective="mean-pooling").fingerprint,
    }
    assert len(prints) == 4
    assert adapter.evaluator(model, samples(model)).fingerprint in prints


def test_bad_samples():
    model = tiny_onevision()
    adapter = find_adapter(model)
    with pytest.raises(InputError, match="sample set is empty"):
        adapter.evaluator(model, [])
    with pytest.raises(InputError, match="sample 1 has no image or video"):
        adapter.evaluator(model, [*samples(model)[:1], image_inputs(model, [[]])])
    with pytest.raises(InputError, match="sample 0 has batch size 2"):
        adapter.evaluator(model, [image_inputs(model, [[(42, 42)], [(42, 42)]])])
    with pytest.raises(InputError, match="sample 0 is not a processor output"):
        adapter.evaluator(model, ["picture.png"])
    with pytest.raises(InputError, match="unknown objective 'loss'; there are: last-token"):
        adapter.evaluator(model, samples(model), objective="loss")


def test_a_model_that_is_being_pruned_gives_no_targets():
    model = tiny_onevision()
    with prune(model, STRATEGY), pytest.raises(PruningStateError, match="being pruned already"):
        find_adapter(model).evaluator(model, samples(model))


def test_some_samples_are_evaluated_as_among_all():
    model = tiny_onevision()
    evaluator = find_adapter(model).evaluator(model, samples(model))
    whole = evaluator.evaluate(STRATEGY)
    assert whole.score == sum(whole.similarities) / 3
    some = evaluator.evaluate_on(STRATEGY, [0, 2])
    assert some.similarities == (whole.similarities[0], whole.similarities[2])
    assert some.score == sum(some.similarities) / 2


def test_centred_and_next_token_objectives_are_what_prune_computes():
    model = tiny_onevision()
    data = samples(model)
    full, pruned, odds = [], [], []
    for inputs in data:
        full.append(final_states(model, inputs)[-1])
        with torch.no_grad():
            target = model(**inputs).logits[0, -1].double().log_softmax(-1)
        with prune(model, STRATEGY):
            pruned.append(final_states(model, inputs)[-1])
            with torch.no_grad():
                found = model(**inputs).logits[0, -1].double().log_softmax(-1)
        odds.append(float((-(target.exp() * (target - found)).sum()).exp()))
    mean = torch.stack(full).mean(0)
    centred = [cosine(one - mean, other - mean) for one, other in zip(pruned, full, strict=True)]
    for objective, expected in (("centred-last-token", centred), ("next-token", odds)):
        evaluator = find_adapter(model).evaluator(model, data, objective=objective)
        assert evaluator.evaluate(STRATEGY).similarities == pytest.approx(expected, abs=1e-5)
