"""Pruning of Qwen2-VL, beside the conformance kit: reports, conversations, the evaluator."""

import pytest
import torch
from transformers import DynamicCache

from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny_qwen import IMAGE, LAYERS, VIDEO, qwen_inputs, rotary_positions, tiny_qwen2_vl
from vflowopt import Strategy, prune
from vflowopt.errors import InputError
from vflowopt.plugins import find_adapter

IMAGE_ONLY = [[(60, 84)]]
RAGGED = [[(24, 36)], [(36, 96), (4, 24, 36), (48, 24)], [], [(6, 24, 24)]]
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, cell=2.5)
both = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def test_units_are_reported_in_prompt_order_with_a_view_per_temporal_slice():
    model = tiny_qwen2_vl()
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model(**qwen_inputs(RAGGED))
    report = pruning.report
    assert [unit.sample for unit in report.units] == [i for i, shapes in enumerate(RAGGED) for _ in shapes]
    assert all(unit.structural == 0 for unit in report.units)
    views = [len(unit.details["calibration_patches"]) for unit in report.units]
    assert views == [shape[0] // 2 if len(shape) == 3 else 1 for shapes in RAGGED for shape in shapes]


def test_pruning_changes_the_output():
    """Guards the oracle: without pruning it would say something else."""
    model = tiny_qwen2_vl()
    inputs = qwen_inputs(IMAGE_ONLY)
    with torch.no_grad():
        full = model(**inputs).logits[:, -1]
        with prune(model, STRATEGY):
            pruned = model(**inputs).logits[:, -1]
    assert (full - pruned).abs().max() > 1e-3


@both
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_decoding_equals_a_fresh_prefill_per_token(attention, beams):
    model = tiny_qwen2_vl(attention)
    inputs = qwen_inputs(RAGGED)
    found = []
    for use_cache in (True, False):
        with prune(model, STRATEGY), torch.no_grad():
            # Generated placeholders would be taken for images.
            found.append(
                model.generate(
                    **inputs,
                    max_new_tokens=6,
                    suppress_tokens=[IMAGE, VIDEO],
                    do_sample=False,
                    num_beams=beams,
                    use_cache=use_cache,
                )
            )
    assert torch.equal(*found)


def test_a_cache_is_continued_in_a_second_turn():
    """The second turn sees what the oracle sees: retained tokens at their own positions, and what came after."""
    model = tiny_qwen2_vl()
    first = qwen_inputs([[(60, 84)]])
    cache = DynamicCache(config=model.config.text_config)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        one = model.generate(**first, past_key_values=cache, **options)
        plans = pruning.plan
        conversation = torch.cat([one.sequences, torch.tensor([[11, 12, 13]])], dim=1)
        mask = torch.ones_like(conversation)
        two = model.generate(input_ids=conversation, attention_mask=mask, past_key_values=cache, **options)
    final = two.sequences[:, :-1]
    queries = first["input_ids"].shape[1]
    with torch.no_grad():
        embeddings = torch.cat(
            [unpruned_embeddings(model, first), model.get_input_embeddings()(final[:, queries:])], dim=1
        )
    positions = rotary_positions(model, first, final.shape[1] - queries)
    expected = oracle_logits(model, embeddings, torch.ones_like(final), place(final, plans, (IMAGE,)), positions)
    assert (torch.stack(two.logits, dim=1) - expected[:, -4:]).abs().max() <= 1e-5


def test_positions_of_earlier_turns_too_are_refused_as_upstream_refuses_them():
    """Where a second turn has a mask over both and no positions, upstream makes positions of both."""
    model, text = tiny_qwen2_vl(), torch.tensor([[11, 12, 13, 14]])
    second = qwen_inputs([[(60, 84)]])
    mask = torch.ones(1, 4 + second["input_ids"].shape[1], dtype=torch.long)

    def both_turns():
        first = model(input_ids=text, use_cache=True, mm_token_type_ids=torch.zeros_like(text))
        return model(**{**second, "attention_mask": mask}, past_key_values=first.past_key_values)

    with torch.no_grad():
        model(**second)  # with what upstream remembers of an earlier prompt
        with pytest.raises(RuntimeError, match="must match the size"):
            both_turns()
        message = rf"positions are those of {mask.shape[1]} tokens, and the forward brings {mask.shape[1] - 4}"
        with prune(model, STRATEGY), pytest.raises(InputError, match=message):
            both_turns()
        with prune(model, STRATEGY) as pruning:  # nothing is left of it
            model(**second)
            assert pruning.report.retention < 0.5


def final_state(model, inputs):
    """The final-norm hidden state of the last prompt token, observed at the decoder's output."""
    seen = []
    handle = model.model.language_model.register_forward_hook(lambda m, a, out: seen.append(out.last_hidden_state))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return seen[0][0, -1].double()


def test_the_evaluator_scores_what_prune_computes():
    model = tiny_qwen2_vl()
    data = [qwen_inputs([shapes]) for shapes in ([(60, 84)], [(24, 36), (36, 48)], [(4, 24, 36)])]
    evaluator = find_adapter(model).evaluator(model, data)
    assert [[layout.tokens for layout in layouts] for layouts in evaluator.units] == [[35], [6, 12], [12]]
    expected = []
    for inputs in data:
        full = final_state(model, inputs)
        with prune(model, STRATEGY):
            pruned = final_state(model, inputs)
        expected.append(float((full * pruned).sum() / full.norm() / pruned.norm()))
    result = evaluator.evaluate(STRATEGY)
    assert result.score == pytest.approx(sum(expected) / 3, abs=1e-5)
    assert result.score < 1 - 1e-4
    assert result.nonfinite == 0
    keep = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0))
    assert evaluator.evaluate(keep).score == pytest.approx(1, abs=1e-6)
