"""Questions encoded once are answered as plain ``generate`` under ``prune`` answers them, in every family."""

import importlib
from functools import partial

import pytest
import torch

from support.cases import BY_DECODER
from vflowopt import CalibratedAttention, GridRecycler, Progressive, Strategy, prune
from vflowopt_hf.checkpoint.panel import QuestionPanel
from vflowopt_hf.family import statistics_of
from vflowopt_hf.testing.subject import Subject


def token_ids(model, inputs, max_new_tokens):
    """An answer in the place of text: random models say nothing."""
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(ids[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("name", BY_DECODER)
def test_encoded_questions_are_answered_as_plain_ones(name):
    case = importlib.import_module(f"support.cases.{name}").CASE
    subject = Subject(case, "sdpa")
    samples = [subject.image(1), *([subject.several()] if case.several_images else [])]
    questions = [subject.batch(sample).inputs for sample in [*samples, *([subject.video()] if case.video else [])]]
    strategy = Strategy(
        scorer=CalibratedAttention(threshold=1.2),
        schedule=Progressive(stages=(0, 2), retention=(0.7, 0.8)),
        recycler=GridRecycler(cell=2.0),
    )
    generate = partial(token_ids, subject.model)
    runs = []
    attention = case.family.vision_attention(subject.model)
    panel = QuestionPanel(case.family, subject.model, statistics_of(case.family, None), generate, questions, 4)
    handle = attention.register_forward_hook(lambda *_: runs.append(1))
    told = [panel.answer(number, strategy) for number in range(len(questions))]
    handle.remove()
    assert runs == []  # nothing is encoded again
    for inputs, answered in zip(questions, told, strict=True):
        with prune(subject.model, strategy) as pruning:
            assert generate(inputs, 4) == answered.text
            assert pruning.report.units == answered.units
            assert pruning.report.kv_cache_bytes == answered.kv_cache_bytes
