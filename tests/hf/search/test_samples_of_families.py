"""What a search keeps of a sample can leave memory, and join a batch, whatever the family's decoder is called with."""

import importlib

import pytest

from support.cases import BY_DECODER
from vflowopt import Strategy
from vflowopt_hf.search.sample_store import MemoryLimits
from vflowopt_hf.testing.batches import Sample, picture
from vflowopt_hf.testing.subject import Subject

BATCHED = {"gemma3": 1, "gemma4": 1, "gemma4_e2b": 1, "qwen3_omni": 1, "qwen3_vl": 1, "qwen3_vl_moe": 1}
"""Samples per batch where it is not two: decoders called with masks or embeddings that nothing generic can join."""


@pytest.mark.parametrize("name", BY_DECODER)
def test_scores_on_disk_and_in_batches(name):
    subject = Subject(importlib.import_module(f"support.cases.{name}").CASE, "sdpa")
    prompts = [Sample((picture(subject.case.image_sizes[0], seed=seed),), seed=4) for seed in (1, 2)]
    if subject.case.several_images:
        prompts.append(subject.several())
    data = [subject.batch(prompt).inputs for prompt in prompts]
    values = {"retention": (0.6, 0.7, 0.5), "threshold": 1.2, "entropy_weight": 0.4, "cell": 2.0}
    strategy = Strategy.vflowopt(num_layers=subject.num_layers, **values)

    def outcomes(**options):
        evaluator = subject.adapter.evaluator(subject.model, data, processor=subject.processor, **options)
        return evaluator, evaluator.outcomes(strategy)

    _, expected = outcomes()
    assert len(set(expected.similarities)) == len(data)
    _, on_disk = outcomes(limits=MemoryLimits(host=0))
    assert on_disk.similarities == expected.similarities
    batched, together = outcomes(batch_tokens=5000)
    assert together.similarities == pytest.approx(expected.similarities, abs=2e-5)
    assert together.retentions == expected.retentions
    assert max(map(len, batched._batches)) == BATCHED.get(name, 2)
