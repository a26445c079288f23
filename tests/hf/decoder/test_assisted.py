"""Assisted decoding and prompt lookup find what plain greedy decoding finds, and what they cannot do is refused."""

import copy
import functools
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.generation.candidate_generator import CandidateGenerator

from support.cases import gemma3, llava_onevision, qwen2_vl
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.cache import PrunedLayer
from vflowopt_hf.testing.batches import Sample, with_extra_inputs
from vflowopt_hf.testing.generation import EXACT, generate
from vflowopt_hf.testing.subject import Subject

STEPS = 12
CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE, "gemma3": gemma3.CASE}


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


@functools.cache
def assistant(family):
    """The same model, which sees the whole image."""
    return copy.deepcopy(subject(family).model)


def draft(kind, family):
    """Options of ``generate``."""
    return {"assistant_model": assistant(family)} if kind == "assistant" else {"prompt_lookup_num_tokens": 3}


class Drafts(CandidateGenerator):
    """Drafts four tokens of a known answer, every fifth token of which it gets wrong."""

    requires_model_outputs = False

    def __init__(self, answer):
        self.answer = answer.clone()
        self.answer[:, ::5] += 1

    def get_candidates(self, input_ids, **_):
        return torch.cat([input_ids, self.answer[:, input_ids.shape[1] :][:, :4]], dim=1), None

    def update_candidate_strategy(self, *_):
        pass


def inputs_of(own, strategy, prompt):
    """A prompt; the second turn's holds the first and its answer, and is prefilled anew."""
    samples = {"image": own.image(1), "two images": Sample(own.several().media[:2], seed=5)}
    if prompt != "second turn":
        return own.batch(samples[prompt]).inputs
    first, more = own.batch(samples["two images"]), own.batch(Sample(seed=3))
    with own.prune(strategy):
        answered = generate(own, first.inputs, 4).sequences
    ids = torch.cat([answered, more.inputs["input_ids"]], dim=1)
    inputs = {**first.pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return with_extra_inputs(own.case, own.model, inputs)


@contextmanager
def counting(own, counts):
    """Counts forwards, and the tokens of candidates that were rejected."""
    crop = Cache.crop

    def counted(cache, tokens):
        if any(isinstance(layer, PrunedLayer) for layer in cache.layers):
            counts["rejected"] -= tokens
        return crop(cache, tokens)

    handle = own.model.register_forward_pre_hook(lambda *_: counts.update(["forwards"]))
    with mock.patch.object(Cache, "crop", counted):
        yield
    handle.remove()


def same(found, expected):
    assert torch.equal(found.sequences, expected.sequences)
    assert (torch.stack(found.logits) - torch.stack(expected.logits)).abs().max() <= EXACT


@pytest.mark.parametrize("prompt", ["image", "two images", "second turn"])
@pytest.mark.parametrize("kind", ["assistant", "prompt lookup"])
@pytest.mark.parametrize("family", CASES)
def test_the_answer_is_that_of_plain_greedy_decoding(family, kind, prompt):
    own, counts, options = subject(family), Counter(), draft(kind, family)
    strategy = own.strategy(own.batch(own.several()))
    inputs = inputs_of(own, strategy, prompt)
    with own.prune(strategy):
        expected = generate(own, inputs, STEPS)
        with counting(own, counts):
            found = generate(own, inputs, STEPS, **options)
    same(found, expected)
    assert counts["rejected"] > 0


@pytest.mark.parametrize("prompt", ["image", "two images", "second turn"])
@pytest.mark.parametrize("family", CASES)
def test_drafts_are_accepted_and_rejected_in_turn(family, prompt, monkeypatch):
    own, counts = subject(family), Counter()
    strategy = own.strategy(own.batch(own.several()))
    inputs = inputs_of(own, strategy, prompt)
    with own.prune(strategy):
        expected = generate(own, inputs, STEPS)
        drafts = Drafts(expected.sequences)
        monkeypatch.setattr(type(own.model), "_get_candidate_generator", lambda *_, **__: drafts)
        with counting(own, counts):
            found = generate(own, inputs, STEPS, prompt_lookup_num_tokens=4)
    same(found, expected)
    assert counts["rejected"] > 0
    assert counts["forwards"] <= STEPS // 2


@pytest.mark.parametrize("family", CASES)
def test_a_cache_without_windows_and_stages_inside_the_decoder(family):
    """``DynamicCache()`` keeps all tokens of every layer, whatever its window."""
    own, options = subject(family), draft("assistant", family)
    batch = own.batch(own.several())
    with own.prune(own.strategy(batch, (2, 4))):
        expected = generate(own, batch.inputs, STEPS)
        found = generate(own, batch.inputs, STEPS, past_key_values=DynamicCache(), **options)
        same(found, expected)
        assert found.past_key_values.get_seq_length() == found.sequences.shape[1] - 1


def test_decoding_goes_on_after_assisted_decoding():
    """The cache that it leaves lacks nothing that was accepted."""
    own, options = subject("onevision"), draft("assistant", "onevision")
    batch = own.batch(own.image(0))
    with own.prune(own.strategy(batch)):
        expected = generate(own, batch.inputs, STEPS)
        begun = generate(own, batch.inputs, STEPS // 2, **options)
        mask = torch.ones_like(begun.sequences)
        cache, ids = begun.past_key_values, begun.sequences
        found = generate(own, {"input_ids": ids, "attention_mask": mask}, STEPS // 2, past_key_values=cache)
    assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.parametrize("kind", ["assistant", "prompt lookup"])
def test_what_upstream_does_wrong_is_refused_before_anything_runs(kind):
    """On a cache that holds tokens, it would run the whole conversation once more."""
    own, ran, options = subject("onevision"), Counter(), draft(kind, "onevision")
    batch = own.batch(own.image(0))
    strategy = own.strategy(batch)
    with own.prune(strategy):
        first = generate(own, batch.inputs, 2)
    longer = {"input_ids": first.sequences, "attention_mask": torch.ones_like(first.sequences)}
    handle = own.model.register_forward_pre_hook(lambda *_: ran.update(["forward"]))
    refused = pytest.raises(UnsupportedOperationError, match=f"on top of the {first.sequences.shape[1] - 1} tokens")
    with own.prune(strategy), refused:
        generate(own, longer, 2, past_key_values=first.past_key_values, **options)
    handle.remove()
    assert not ran


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"assistant_early_exit": 2}, "use assistant_model"),
        ({"prompt_lookup_num_tokens": 2, "cache_implementation": "quantized"}, "use cache_implementation='dynamic'"),
    ],
    ids=["early exit", "quantised cache"],
)
def test_other_ways_of_drafting_are_refused(options, remedy):
    own = subject("onevision")
    batch = own.batch(own.image(0))
    with own.prune(own.strategy(batch)), pytest.raises(UnsupportedOperationError, match=remedy):
        generate(own, batch.inputs, 2, **options)
