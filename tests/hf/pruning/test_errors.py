"""What cannot work says so in one typed error, before work is lost, and leaves the model as it was."""

import math
from contextlib import ExitStack
from typing import Literal, get_args

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicIndexedLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from support.tiny import IMAGE, LAYERS, image_inputs, tiny_onevision
from vflowopt import CalibratedAttention, Strategy, prune
from vflowopt.errors import (
    ImportanceError,
    InputError,
    PruningStateError,
    StrategyError,
    UnsupportedModelError,
    UnsupportedOperationError,
)
from vflowopt.plans.competitors import Separators
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.plans.prefill import place_units
from vflowopt_hf.vision.encoders import tap_encoders

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)


def state(model):
    """All that a session may touch: hooks, configs, instance attributes, attention functions."""
    modules = list(model.modules())
    return (
        [(len(m._forward_pre_hooks), len(m._forward_hooks), sorted(vars(m))) for m in modules],
        [
            (id(getattr(m, "config", None)), getattr(getattr(m, "config", None), "_attn_implementation", 0))
            for m in modules
        ],
        sorted(ALL_ATTENTION_FUNCTIONS),
    )


@pytest.fixture
def model():
    model = tiny_onevision()
    with torch.no_grad():  # upstream notes some things on itself at first use
        model.generate(**image_inputs(model, [[(42, 42)]]), max_new_tokens=2, do_sample=False)
    before = state(model)
    yield model
    assert state(model) == before


@pytest.fixture
def inputs(model):
    return image_inputs(model, [[(80, 60)]])


def test_an_ordinary_block_leaves_no_trace(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        model(**inputs)


@pytest.mark.parametrize("place", ["vision", "decoder layer", "decoder norm", "lm head"])
def test_an_exception_in_the_middle_leaves_no_trace(model, inputs, place):
    target = {
        "vision": model.model.vision_tower.encoder.layers[1].mlp,
        "decoder layer": model.model.language_model.layers[3].mlp,
        "decoder norm": model.model.language_model.norm,
        "lm head": model.lm_head,
    }[place]

    def fail(*_):
        raise RuntimeError("on purpose")

    with torch.no_grad():
        expected = model(**inputs).logits
        handle = target.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="on purpose"), prune(model, STRATEGY):
            model(**inputs)
        handle.remove()
        assert torch.equal(model(**inputs).logits, expected)
        with prune(model, STRATEGY) as pruning:  # and the model can be pruned again
            model(**inputs)
            assert pruning.report.units[0].counts == STRATEGY.schedule.counts(pruning.report.units[0].tokens)


def test_a_failed_forward_does_not_spoil_the_next(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        expected = model(**inputs).logits
        handle = model.model.language_model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        assert torch.equal(model(**inputs).logits, expected)


def test_nesting_is_refused_and_the_outer_block_goes_on(model, inputs):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        with pytest.raises(PruningStateError, match="being pruned already"), prune(model, STRATEGY):
            pass
        model(**inputs)
        assert pruning.report.retention < 0.5


def test_two_models_at_once(model, inputs):
    other = tiny_onevision(seed=1)
    half = Strategy.vflowopt(num_layers=LAYERS, retention=(0.7, 0.9, 0.9))
    with torch.no_grad():
        with prune(model, STRATEGY):
            first = model(**inputs).logits
        with prune(other, half):
            second = other(**inputs).logits
        with ExitStack() as stack:
            stack.enter_context(prune(model, STRATEGY))
            stack.enter_context(prune(other, half))
            assert torch.equal(model(**inputs).logits, first)
            assert torch.equal(other(**inputs).logits, second)
            assert torch.equal(model(**inputs).logits, first)


def test_no_report_before_the_first_prefill(model):
    with prune(model, STRATEGY) as pruning, pytest.raises(PruningStateError, match="no prefill has run in this block"):
        _ = pruning.report


def test_a_stage_beyond_the_last_layer(model):
    late = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5, 0.5), stages=(0, LAYERS))
    with pytest.raises(StrategyError, match=f"stage {LAYERS} lies beyond the last decoder layer"):
        prune(model, late)


def test_a_scorer_that_needs_what_is_not_there(model):
    class Unfit(CalibratedAttention):
        name: Literal["unfit"] = "unfit"

        @property
        def needs(self):
            return frozenset({"attention", "captions"})

    strategy = STRATEGY.model_copy(update={"scorer": Unfit()})
    with pytest.raises(StrategyError, match="scorer 'unfit' needs captions, which llava-onevision models do not offer"):
        prune(model, strategy)


@pytest.mark.parametrize("separators", get_args(Separators))
def test_fewer_tokens_than_separators_are_no_error(model, inputs, separators):
    thin = Strategy.vflowopt(num_layers=LAYERS, retention=(0.02,), stages=(0,), separators=separators)
    with prune(model, thin) as pruning, torch.no_grad():
        model(**inputs)
        for plan in pruning.plan:
            assert plan.counts == (math.floor(0.02 * plan.tokens + 0.5),)
            assert 0 < plan.counts[0] < plan.structural.sum()
            assert not plan.structural[plan.kept[0]].all()


def test_an_unknown_model_family():
    with pytest.raises(UnsupportedModelError, match=r"no config\.model_type"):
        prune(torch.nn.Linear(2, 2), STRATEGY)
    language_model = tiny_onevision().model.language_model
    with pytest.raises(UnsupportedModelError, match=r"'qwen2'; by name 'qwen2_vl' is the nearest"):
        prune(language_model, STRATEGY)


@pytest.mark.parametrize("strategy", [STRATEGY, "divprune@0.25", 0.25], ids=["attention", "an order", "a budget"])
def test_importance_that_is_not_finite(model, inputs, strategy):
    broken = dict(inputs, pixel_values=inputs["pixel_values"] * float("nan"))
    with pytest.raises(ImportanceError, match="not finite"), prune(model, strategy), torch.no_grad():
        model(**broken)


@pytest.mark.parametrize("argument", ["labels", "logits_to_keep"])
def test_arguments_of_full_length(model, inputs, argument):
    with pytest.raises(UnsupportedOperationError, match=argument), prune(model, STRATEGY):
        model(**inputs, **{argument: inputs["input_ids"][0] if argument == "logits_to_keep" else inputs["input_ids"]})


def test_an_integer_logits_to_keep_works(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        torch.testing.assert_close(model(**inputs, logits_to_keep=1).logits, model(**inputs).logits[:, -1:])


def test_embeddings_without_ids(model, inputs):
    arguments = dict(inputs)
    embeddings = model.get_input_embeddings()(arguments.pop("input_ids")).detach()
    placeholder = model.get_input_embeddings()(torch.tensor(IMAGE)).detach()
    assert (embeddings == placeholder).all(-1).any()
    with pytest.raises(UnsupportedOperationError, match="input_ids"), prune(model, STRATEGY):
        model(inputs_embeds=embeddings, **arguments)


def test_features_made_outside(model, inputs):
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    with pytest.raises(UnsupportedOperationError, match="what this prune block has seen"), prune(model, STRATEGY):
        model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features})


def test_features_made_inside_are_reused(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        expected = model(**inputs).logits
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
        for _ in range(2):
            out = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features})
            assert torch.equal(out.logits, expected)


def test_a_four_dimensional_mask(model, inputs):
    length = inputs["input_ids"].shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with pytest.raises(UnsupportedOperationError, match="2-dimensional"), prune(model, STRATEGY):
        model(**dict(inputs, attention_mask=mask))


def test_a_prompt_that_does_not_hold_the_units(model):
    """Half of an image's tokens, as a chunk of a prefill would bring."""
    inputs = image_inputs(model, [[(42, 42), (60, 90)]])
    with tap_encoders(LlavaOnevision(), model) as tap, torch.no_grad():
        features = model.model.get_image_features(  # an output that is gone is forgotten
            inputs["pixel_values"], inputs["image_sizes"], batch_num_images=inputs["batch_num_images"]
        )
        encodings = tap.since(0)
        half = inputs["input_ids"][:, : inputs["input_ids"].shape[1] // 2]
        embeddings = model.get_input_embeddings()(half)
        with pytest.raises(InputError, match="holds 52 image tokens in this forward, but the pixels make 100"):
            place_units({"image": IMAGE}, encodings, half, None, LlavaOnevision.pixel_statistics, embeddings)
        del features, encodings
        tap.mark()
        assert tap.since(0) == []


def test_a_pruned_cache_outside_the_block(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    step = {"input_ids": torch.tensor([[7]]), "past_key_values": cache, "use_cache": True}
    with pytest.raises(PruningStateError, match="only be continued inside"), torch.no_grad():
        model(**step)
    with prune(model, STRATEGY), torch.no_grad():  # nothing was lost by trying
        model(**step)


def test_cropping_into_the_pruned_prompt(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(UnsupportedOperationError, match="cannot remove 20 tokens"):
            cache.crop(-20)


def test_other_kinds_of_cache_layers(inputs):
    model = tiny_onevision()
    cache = DynamicCache(config=model.config.text_config)
    cache.layers[4] = DynamicIndexedLayer()
    with (
        pytest.raises(UnsupportedOperationError, match="DynamicCache has a DynamicIndexedLayer for layer 4"),
        prune(model, STRATEGY),
        torch.no_grad(),
    ):
        model(**inputs, past_key_values=cache, use_cache=True)
