"""How far texts are filled up, where that is exact, and what the decoder is then given."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.cases import gemma3, lfm2_vl
from support.tiny import LAYERS, tiny_onevision, tiny_qwen2_decoder
from vflowopt import Progressive, Strategy
from vflowopt.methods import CDPruner, DivPrune, FastV, SparseVLM
from vflowopt_hf.pruning.filler import can_be_filled_up, filled, hides_filler, reads_text, rows_asked, with_filler
from vflowopt_hf.pruning.prompt import Prompt

SHAPE = (2, 5)
CONFIG = SimpleNamespace(max_position_embeddings=8, output_hidden_states=False, output_attentions=False)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_texts_are_filled_up_by_little_to_few_lengths(text, other):
    length = filled(text)
    assert text <= length
    assert length - text < max(32, text / 4)
    assert filled(length) == length
    assert text > other or length <= filled(other)


def test_how_many_lengths_there_are():
    assert sorted({filled(text) for text in range(1, 257)}) == list(range(32, 257, 32))
    assert sorted({filled(text) for text in range(257, 1025)}) == [320, 384, 448, 512, 640, 768, 896, 1024]


@pytest.mark.parametrize("scorer", [FastV(), SparseVLM(), CDPruner()])
def test_strategies_that_read_the_text(scorer):
    assert reads_text(Strategy(scorer=scorer, schedule=Progressive(stages=(2,), retention=(0.5,))))


def test_strategies_that_do_not():
    assert not reads_text(Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5)))
    assert not reads_text(Strategy(scorer=DivPrune(), schedule=Progressive(stages=(2,), retention=(0.5,))))


def test_decoders_that_look_back_only():
    assert hides_filler(tiny_onevision().model.language_model)
    assert hides_filler(tiny_qwen2_decoder().model.language_model)


def test_decoders_that_carry_a_state_or_look_both_ways():
    assert not hides_filler(lfm2_vl.CASE.model("sdpa").model.language_model)
    decoder = tiny_onevision().model.language_model
    decoder.layers[1].self_attn.is_causal = False
    assert not hides_filler(decoder)
    decoder = gemma3.tiny_gemma3().model.language_model
    config = copy.deepcopy(decoder.config)
    config.use_bidirectional_attention = True
    assert not hides_filler(type(decoder)(config))


def arguments(**more):
    numbers = torch.arange(10.0).view(*SHAPE)
    given = {
        "inputs_embeds": numbers[..., None].expand(-1, -1, 3),
        "position_ids": torch.stack([torch.arange(5), torch.tensor([0, 1, 1, 1, 2])])[:, None].expand(-1, 2, -1),
        "visual_pos_masks": torch.tensor([[False, True, True, True, False]] * 2),
        "deepstack_visual_embeds": [torch.ones(6, 3)],
        "attention_mask": None,
        "logits_to_keep": 2,
    }
    return given | more


def test_the_last_token_is_repeated_at_the_positions_that_follow():
    assert can_be_filled_up(arguments(), SHAPE, 3, CONFIG)
    given = with_filler(arguments(), SHAPE, 3)
    assert given["inputs_embeds"][..., 1].tolist() == [[0, 1, 2, 3, 4, 4, 4, 4], [5, 6, 7, 8, 9, 9, 9, 9]]
    assert given["position_ids"].tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7]] * 2, [[0, 1, 1, 1, 2, 3, 4, 5]] * 2]
    assert given["visual_pos_masks"].tolist() == [[False, True, True, True, False, False, False, False]] * 2
    assert torch.equal(given["deepstack_visual_embeds"][0], torch.ones(6, 3))
    assert given["attention_mask"] is None
    assert "logits_to_keep" not in given
    assert list(range(8))[rows_asked(arguments(), 3)] == [3, 4]
    assert list(range(8))[rows_asked({}, 3)] == [0, 1, 2, 3, 4]
    assert list(range(5))[rows_asked(arguments(), 0)] == [3, 4]
    assert list(range(5))[rows_asked({}, 0)] == [0, 1, 2, 3, 4]


def test_what_is_not_understood_is_not_filled_up():
    assert not can_be_filled_up(arguments(), SHAPE, 4, CONFIG)  # more than there are positions
    assert not can_be_filled_up(arguments(rows=torch.arange(5)), SHAPE, 3, CONFIG)
    assert not can_be_filled_up(arguments(output_attentions=True), SHAPE, 3, CONFIG)
    asking = SimpleNamespace(**vars(CONFIG) | {"output_hidden_states": True})
    assert not can_be_filled_up(arguments(), SHAPE, 3, asking)


@pytest.mark.parametrize(
    ("ids", "text"),
    [([[5, 1, 1, 6, 7], [1, 1, 1, 6, 7]], 2), ([[5, 1, 6, 6, 6], [5, 6, 6, 1, 6]], 1), ([[5, 6, 6, 1, 2]], 0)],
)
def test_text_after_the_last_visual_token(ids, text):
    assert Prompt(torch.tensor(ids), None, 0, {"image": 1, "video": 2}).text == text
