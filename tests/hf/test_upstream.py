"""What transformers calls the KV cache: read by either name, passed by the right one, missed nowhere in silence."""

import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from transformers import DynamicCache

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.budgets.calibration import usual_strategies
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.decoder.cache import PrunedLayer
from vflowopt_hf.measure.bench import Bench
from vflowopt_hf.measure.bench.tasks import DECODE_STEPS, Candidate
from vflowopt_hf.measure.calibrate import Calibration
from vflowopt_hf.upstream import (
    CACHE_NAMES,
    TESTED,
    UntestedUpstreamWarning,
    cache_argument,
    cache_from,
    cache_in,
    feature_layer,
    warn_if_untested,
    with_cache,
)

REPOSITORY = Path(__file__).parents[2]
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5))


@pytest.fixture
def model():
    return tiny_onevision()


@pytest.fixture
def inputs(model):
    return image_inputs(model, [[(80, 60)]])


class Old(nn.Module):
    """Takes the cache as up to 5.23."""

    def forward(self, hidden_states, past_key_values=None, **others):
        return past_key_values, others


class New(nn.Module):
    """Takes the cache as from 5.24 on."""

    def forward(self, hidden_states, cache=None, **others):
        return cache, others


class Unknown(nn.Module):
    """Takes the cache as no release has done yet."""

    def forward(self, hidden_states, kv=None, **others):
        return kv, others


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_read_by_either_name(name):
    cache = DynamicCache()
    assert cache_in({"use_cache": True, name: cache}) is cache
    assert cache_in(dict.fromkeys(CACHE_NAMES) | {name: cache}) is cache
    assert cache_in({name: None}) is cache_in({}) is None


@pytest.mark.parametrize("module", [Old(), New()])
@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_cache_is_passed_by_the_name_that_the_module_declares(module, name):
    """Whatever the call was recorded with, a leftover of the other name must not win."""
    cache, other = DynamicCache(), DynamicCache()
    for recorded in (None, other):
        assert module(0, **with_cache(module, {name: recorded, "mask": 1}, cache)) == (
            cache,
            {"use_cache": True, "mask": 1},
        )


def test_the_model_gets_the_cache_that_it_is_given(model):
    cache = DynamicCache(config=model.config.text_config)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")  # no name that upstream is about to drop
        output = model(**with_cache(model, {"input_ids": torch.tensor([[7, 8, 9]])}, cache))
        assert cache_from(output) is cache
    assert cache.get_seq_length() == 3


def test_an_output_without_a_cache_is_refused(model):
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[7, 8, 9]]), use_cache=False)
    with pytest.raises(UnsupportedModelError, match="holds no KV cache"):
        cache_from(output)


def test_layers_whose_cache_would_not_be_seen_are_refused_before_anything_runs(model, inputs):
    model.model.language_model.layers[3] = Unknown()
    with pytest.raises(UnsupportedModelError, match=f"Unknown of transformers {transformers.__version__} takes no KV"):
        prune(model, STRATEGY).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_that_reuse_keys_of_unknown_layers_are_refused_before_anything_runs(model, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "num_kv_shared_layers", 2, raising=False)
    refused = f"last 2 decoder layers reuse .* transformers {transformers.__version__} does not tell which; use"
    with pytest.raises(UnsupportedModelError, match=refused):
        prune(model, STRATEGY).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_layers_are_pruned_by_whichever_name_their_hooks_see(model, inputs, name):
    """Arguments are renamed before the hooks of ``prune`` look at them, and named back before the layer does."""
    layers = model.model.language_model.layers
    own = cache_argument(layers[0])

    def renamed(old, new):
        return lambda _module, args, kwargs: (args, {new if key == old else key: kwargs[key] for key in kwargs})

    def run():
        output = model(**with_cache(model, inputs, DynamicCache(config=model.config.text_config)))
        return output.logits, cache_from(output)

    with torch.no_grad():
        with prune(model, STRATEGY):
            expected, _ = run()
        for layer in layers:
            layer.register_forward_pre_hook(renamed(own, name), with_kwargs=True)
        with prune(model, STRATEGY):
            for layer in layers:
                layer.register_forward_pre_hook(renamed(name, own), with_kwargs=True)
            logits, cache = run()
    assert torch.equal(logits, expected)
    assert {type(layer) for layer in cache.layers} == {PrunedLayer}
    assert cache.layers[-1].stored_length() < cache.get_seq_length() == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("strategy", [None, STRATEGY], ids=["unpruned", "pruned"])
def test_a_benchmark_decodes_on_the_cache_of_its_prefill(model, inputs, strategy):
    family = llava_onevision.family
    subject = Bench(family, model, inputs, family.pixel_statistics)._subject
    candidate, prompt = Candidate(subject, "it", strategy), inputs["input_ids"].shape[1]
    with torch.no_grad():
        candidate.fill_cache()
        assert cache_from(candidate.once("decode per token")()).get_seq_length() == prompt + 1
        output = candidate.run("decode per token")()
        assert cache_from(output).get_seq_length() == prompt + 1 + DECODE_STEPS
        cache, _ = candidate.decode_prompt()
    assert {layer.get_seq_length() for layer in cache.layers} == {prompt}
    assert (cache.layers[-1].keys.shape[-2] < prompt) == (strategy is not None)


def test_calibration_fills_the_caches_that_it_makes(model, inputs, monkeypatch):
    made = []

    class Noted(DynamicCache):
        def __init__(self, **options):
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr("vflowopt_hf.measure.calibrate.DynamicCache", Noted)
    family = llava_onevision.family
    Calibration(family, model, [inputs], usual_strategies(LAYERS), family.pixel_statistics).run(1)
    lengths = {cache.get_seq_length() for cache in made}
    assert max(lengths) == inputs["input_ids"].shape[1]
    assert min(lengths) > 0
    pruned = [cache for cache in made if isinstance(cache.layers[-1], PrunedLayer)]
    assert 0 < len(pruned) < len(made)


@pytest.fixture
def afresh():
    warn_if_untested.cache_clear()
    yield
    warn_if_untested.cache_clear()


def untested(caught):
    return [str(one.message) for one in caught if one.category is UntestedUpstreamWarning]


@pytest.mark.usefixtures("afresh")
def test_an_untested_upstream_is_told_once_at_first_use(model, inputs, monkeypatch):
    monkeypatch.setattr("vflowopt_hf.upstream.transformers.__version__", "5.99.1")
    newest = ".".join(map(str, TESTED[-1]))
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        for _ in range(2):
            with prune(model, STRATEGY):
                model(**inputs)
        llava_onevision.evaluator(model, [inputs]).evaluate(STRATEGY)
    (told,) = untested(caught)
    assert told.startswith(
        f"transformers 5.99.1 is newer than {newest}, the newest release that vflowopt-hf was tested"
    )


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("version", [TESTED[0], TESTED[-1]])
def test_a_tested_upstream_is_not_warned_of(model, monkeypatch, version):
    monkeypatch.setattr("vflowopt_hf.upstream.transformers.__version__", ".".join(map(str, (*version, 3))))
    with warnings.catch_warnings(record=True) as caught, prune(model, STRATEGY):
        warnings.simplefilter("always")
    assert untested(caught) == []


@pytest.mark.parametrize("name", ["vision_feature_layer", "vision_feature_layers"])
def test_the_hidden_states_that_a_projector_uses_are_read_by_either_name(name):
    for value in (-2, 0, [-2, 1]):
        assert feature_layer(SimpleNamespace(**{name: value})) == value


def test_what_is_called_tested_is_what_the_tests_run_with():
    """``constraints.txt`` holds the newest, and the packages' metadata the oldest, which ``make test-oldest`` takes."""
    oldest, newest = (".".join(map(str, version)) for version in (TESTED[0], TESTED[-1]))
    assert f"\ntransformers=={newest}." in (REPOSITORY / "constraints.txt").read_text()
    for metadata in REPOSITORY.glob("packages/*/pyproject.toml"):
        for requirement in tomllib.loads(metadata.read_text())["project"]["dependencies"]:
            assert not requirement.startswith("transformers") or requirement == f"transformers>={oldest},<6"
