"""Log-likelihood of an answer: the prompt's tokens rate, if the answer follows on the prompt's cache."""

import pytest
import torch

from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny import IMAGE, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.methods import FastV, PyramidDrop, SparseVLM

SCORERS = [FastV(), PyramidDrop(), SparseVLM()]
SCHEDULE = Progressive(stages=(2, 4), retention=(0.4, 0.5))
ANSWER = torch.tensor([[9, 31, 14, 52]])


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)
def test_an_answer_on_the_prompts_cache(scorer):
    """Its logits are those of all tokens at once where the plan is the prompt's."""
    model, strategy = tiny_onevision(), Strategy(scorer=scorer, schedule=SCHEDULE)
    inputs = image_inputs(model, [[(80, 60)]])
    whole = torch.cat([inputs["input_ids"], ANSWER], dim=1)
    mask = torch.ones_like(whole)
    with prune(model, strategy) as pruning, torch.no_grad():
        prompt = model(**inputs, use_cache=True)
        plans = pruning.plan
        answer = model(input_ids=ANSWER, attention_mask=mask, past_key_values=prompt.past_key_values)
        model(**{**inputs, "input_ids": whole, "attention_mask": mask})
        appended = pruning.plan
    logits = torch.cat([prompt.logits[:, -1:], answer.logits], dim=1)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(whole)
    embeddings[:, : inputs["input_ids"].shape[1]] = unpruned_embeddings(model, inputs)
    expected = oracle_logits(model, embeddings, mask, place(whole, plans, (IMAGE,)))
    assert (logits - expected[:, -1 - ANSWER.shape[1] :]).abs().max() <= 1e-5
    assert any(set(one) != set(other) for one, other in zip(plans[0].kept, appended[0].kept, strict=True))
