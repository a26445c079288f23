"""On a GPU: replayed CUDA graphs give what eager pruning gives."""

import importlib
import warnings

import pytest
import torch

from support.alike import asking, other_numbers
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.families.shapes.llava_onevision import build, decoder, onevision_inputs, tower
from vflowopt_hf.graphs.store import GraphsWarning
from vflowopt_hf.testing.subject import Subject

pytestmark = pytest.mark.gpu


def on_cuda(inputs):
    return {name: value.to("cuda") for name, value in inputs.items()}


def answers(model, pruning, batches):
    """Logits, greedy tokens and report of each of some inputs, which are held until all have been asked."""
    found = []
    with pruning as block, torch.no_grad():
        for inputs in batches:
            logits = model(**inputs).logits
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
            found.append((logits, tokens, block.report))
    return found


def require_close(got, expected, tolerance):
    for (logits, _, report), (wanted, _, expected_report) in zip(got, expected, strict=True):
        assert (logits - wanted).abs().max() <= tolerance * wanted.abs().max()
        assert report == expected_report


@pytest.mark.parametrize("name", ["llava_onevision", "llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_families(name):
    subject = Subject(importlib.import_module(f"support.cases.{name}").CASE, "sdpa")
    batch = subject.batch(subject.image(0))
    subject.model.to("cuda")
    prompts = [asking(batch.inputs, subject.family.placeholder_ids(subject.model), text) for text in (9, 31, 17, 9)]
    batches = [on_cuda(other_numbers(inputs, seed)) for seed, inputs in enumerate(prompts)]
    strategy = subject.strategy(batch)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GraphsWarning)
        block = subject.adapter.prune(subject.model, strategy, processor=subject.processor, graphs=True)
        got = answers(subject.model, block, batches)
    eager = subject.adapter.prune(subject.model, strategy, processor=subject.processor)
    wanted = answers(subject.model, eager, batches)
    require_close(got, wanted, 1e-5)
    for (_, tokens, _), (_, expected, _) in zip(got, wanted, strict=True):
        assert torch.equal(tokens, expected)
    reasons = [str(one.message) for one in told if one.category is GraphsWarning]
    assert reasons == []


def test_a_wide_model_in_half_precision():
    family = LlavaOnevision()
    model = build(decoder(3584, 6, 28, 4, 18944), tower(1152, 4, 16, 4304), "cuda", "bfloat16")
    inputs = onevision_inputs(family, model, 4414, 60)
    batches, adapter = [other_numbers(inputs, seed) for seed in range(4)], TransformersAdapter(family)
    strategy = adapter.default_strategy(model, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphsWarning)
        got = answers(model, adapter.prune(model, strategy, graphs=True), batches)
    require_close(got, answers(model, adapter.prune(model, strategy), batches), 2e-2)
