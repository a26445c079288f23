"""Methods that rank by the decoder's attention rank by the prompt, whatever comes after it in the same forward."""

import copy
import functools

import pytest
import torch

from support.cases import gemma3, llava_onevision, qwen2_vl
from vflowopt import Progressive, Strategy
from vflowopt.methods import FastV, FitPrune, PyramidDrop, SparseVLM
from vflowopt_hf.testing.batches import with_extra_inputs
from vflowopt_hf.testing.generation import EXACT, generate
from vflowopt_hf.testing.subject import Subject

STEPS = 10
CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE, "gemma3": gemma3.CASE}
METHODS = {"fastv": FastV(), "pyramiddrop": PyramidDrop(), "sparsevlm": SparseVLM(), "fitprune": FitPrune()}
families = pytest.mark.parametrize("family", CASES)
methods = pytest.mark.parametrize("method", METHODS)


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def strategy_of(method):
    return Strategy(scorer=METHODS[method], schedule=Progressive(stages=(1, 3), retention=(0.5, 0.5)))


def answered(own, batch, answer):
    """The prompts followed by their answers."""
    ids = torch.cat([batch.inputs["input_ids"], answer], dim=1)
    mask = torch.cat([batch.inputs["attention_mask"], torch.ones_like(answer)], dim=1)
    return with_extra_inputs(own.case, own.model, {**batch.inputs, "input_ids": ids, "attention_mask": mask})


def kept(pruning):
    return [[list(map(int, stage)) for stage in plan.kept] for plan in pruning.plan]


@methods
@families
def test_an_answer_is_rated_as_it_is_decoded(family, method):
    """One forward over prompt and answer gives the logits of as many decoding steps."""
    own = subject(family)
    batch = own.batch(own.image(1), own.several())
    with own.prune(strategy_of(method)) as pruning, torch.no_grad():
        output = generate(own, batch.inputs, STEPS)
        expected = kept(pruning)
        inputs = answered(own, batch, output.sequences[:, -STEPS:-1])
        inputs["position_ids"] = own.model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
        logits = own.model(**inputs, logits_to_keep=STEPS).logits
        assert kept(pruning) == expected
        own.model(**inputs)
        assert kept(pruning) != expected  # all of it is the prompt
    assert (logits - torch.stack(output.logits, dim=1)).abs().max() <= EXACT


@methods
@families
def test_drafts_do_not_rank(family, method):
    """Assisted decoding brings the first drafts with the prompt."""
    own = subject(family)
    batch, assistant = own.batch(own.several()), copy.deepcopy(own.model)
    with own.prune(strategy_of(method)) as pruning:
        expected = generate(own, batch.inputs, STEPS)
        plans = kept(pruning)
        found = generate(own, batch.inputs, STEPS, assistant_model=assistant)
        assert kept(pruning) == plans
    assert torch.equal(found.sequences, expected.sequences)
    assert (torch.stack(found.logits) - torch.stack(expected.logits)).abs().max() <= EXACT


def test_more_logits_than_follow_the_image():
    """The prompt then ends in the image: its last token ranks."""
    own = subject("onevision")
    batch = own.batch(own.image(0))
    last = int(batch.placed[0].rows[-1])
    length = batch.inputs["input_ids"].shape[1]
    with own.prune(strategy_of("fastv")) as pruning, torch.no_grad():
        own.model(**batch.inputs, logits_to_keep=length - last)
        found = kept(pruning)
        inputs = {
            **batch.inputs,
            **{name: batch.inputs[name][:, : last + 1] for name in ("input_ids", "attention_mask")},
        }
        own.model(**inputs)
        assert kept(pruning) == found
