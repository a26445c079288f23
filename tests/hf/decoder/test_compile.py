"""``torch.compile`` while pruning: decoding steps are compiled once and for all blocks, prefills run eagerly."""

import copy

import pytest
import torch
from transformers import CompileConfig, DynamicCache, LlavaOnevisionForConditionalGeneration, StaticCache

from support.generating import generating, same
from support.repeats import repeats
from support.tiny import image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.components.mass import LogMass
from vflowopt.errors import PruningStateError, UnsupportedOperationError
from vflowopt.methods import FastV

LAYERS, STEPS, WARM = 3, 6, 2
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6), stages=(1, 2), threshold=1.2, cell=2.5)
WEIGHED = STRATEGY.model_copy(update={"mass": LogMass(gamma=1)})
BY_ATTENTION = Strategy(scorer=FastV(), schedule=Progressive(stages=(1,), retention=(0.4,)))
BATCHES = {"one": [[(42, 42)]], "unequal": [[(42, 42)], [(30, 60)], []]}
generate, assert_same = generating(5), same(1e-6)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tiny(attention="sdpa"):
    config = copy.deepcopy(tiny_onevision(attention).config)
    config.vision_config.num_hidden_layers = 1
    config.text_config.num_hidden_layers = LAYERS
    config.text_config.layer_types = ["full_attention"] * LAYERS
    torch.manual_seed(1)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model


def compiled(function, **options):
    return torch.compile(function, fullgraph=True, backend="eager", **options)


def decode(model, inputs, cache, step, warm):
    """Logits of a prefill and some steps; after ``warm`` of them nothing may be compiled any more."""
    mask, ids, found = inputs["attention_mask"], None, []
    static = isinstance(cache, StaticCache)
    with torch.no_grad():
        output = model(**inputs, past_key_values=cache, use_cache=True)
        for number in range(STEPS):
            found.append(output.logits[:, -1])
            ids, mask = found[-1].argmax(-1, keepdim=True), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            kwargs = {"input_ids": ids, "past_key_values": cache, "use_cache": True, "attention_mask": mask}
            kwargs["position_ids"] = mask.sum(1, keepdim=True) - 1
            if static:  # the masks that generate makes ahead of a compiled step
                kwargs = model.prepare_inputs_for_generation(**kwargs)
            with torch.compiler.set_stance("default" if number < warm else "fail_on_recompile"):
                output = step(**kwargs)
    return torch.stack([*found, output.logits[:, -1]])


def caches(model, kind):
    config = model.config.text_config
    return DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=200)


@pytest.mark.parametrize(
    ("kind", "samples", "strategy", "attention"),
    [
        ("dynamic", "unequal", WEIGHED, "sdpa"),
        ("static", "unequal", WEIGHED, "sdpa"),
        ("static", "one", BY_ATTENTION, "sdpa"),
        *repeats(
            ("dynamic", "one", STRATEGY, "sdpa"),
            ("dynamic", "unequal", STRATEGY, "sdpa"),
            ("static", "unequal", STRATEGY, "sdpa"),
            ("dynamic", "one", STRATEGY, "eager"),
            ("dynamic", "unequal", BY_ATTENTION, "eager"),
            ("static", "one", STRATEGY, "eager"),
            ("static", "unequal", BY_ATTENTION, "eager"),
        ),
    ],
)
def test_a_step_is_compiled_once_for_all_blocks(kind, samples, strategy, attention):
    model = tiny(attention)
    inputs, step = image_inputs(model, BATCHES[samples]), compiled(model.__call__)
    with prune(model, strategy) as pruning:
        expected = decode(model, inputs, caches(model, kind), model, 0)
        got = decode(model, inputs, caches(model, kind), step, WARM)
        assert pruning.report.retention < 0.8
    with prune(model, strategy):
        again = decode(model, inputs, caches(model, kind), step, 0)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert torch.equal(again, got)


def test_generate_compiles_steps_on_static_caches_by_itself():
    """As on an accelerator; what it compiled without pruning does not get in the way, nor the other way round."""
    model = tiny()
    inputs = image_inputs(model, BATCHES["unequal"])
    full = generate(model, inputs)
    with prune(model, STRATEGY):
        expected = generate(model, inputs)
    config = CompileConfig(fullgraph=True, backend="eager", mode=None)
    config._compile_all_devices = True  # upstream compiles on accelerators only
    static = {"cache_implementation": "static", "compile_config": config}
    for _ in range(2):
        assert_same(generate(model, inputs, **static), full)
        with prune(model, STRATEGY):
            got = generate(model, inputs, **static)
        assert_same(got, expected)
        assert [type(layer).__name__ for layer in got.past_key_values.layers][1:] == ["PrunedStaticLayer"] * 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def by_forward(model):
    model.forward = compiled(model.forward)
    return model


def by_method(model):
    model.compile(fullgraph=True, backend="eager")
    return model


@pytest.mark.parametrize("compile_it", [by_method, *repeats(by_forward, compiled)])
def test_a_model_compiled_before_is_pruned(compile_it):
    """Even if it has run before, without hooks; what was compiled is there again after the block."""
    eager = tiny()
    inputs = image_inputs(eager, BATCHES["one"])
    full = decode(eager, inputs, caches(eager, "static"), eager, 0)
    with prune(eager, STRATEGY):
        expected = decode(eager, inputs, caches(eager, "static"), eager, 0)
    model = compile_it(tiny())
    before = dict(vars(model))
    text = {name: value[:, -5:] for name, value in inputs.items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        model(**text)
    with prune(model, STRATEGY) as pruning:
        got = decode(model, inputs, caches(eager, "static"), model, 1)
        assert pruning.report.retention < 0.8
    assert vars(model) == before
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert (expected - full).abs().max() > 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1


def test_a_prefill_that_is_compiled_out_of_sight_is_not_passed_over():
    """Hooks cannot run it eagerly then, so it is refused."""
    model = tiny()
    inputs = image_inputs(model, BATCHES["one"])
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        with pytest.raises(torch._dynamo.exc.Unsupported):
            compiled(model.__call__)(**inputs)
        with pytest.raises(PruningStateError):
            _ = pruning.report
        with pytest.raises(UnsupportedOperationError):
            torch.compile(model.__call__, backend="eager")(**inputs)
