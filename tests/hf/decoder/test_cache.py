"""The pruned cache layer on its own: what it holds follows the batch."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from vflowopt.errors import PruningStateError
from vflowopt_hf.decoder.cache import PrunedLayer
from vflowopt_hf.decoder.slots import Slots


@pytest.fixture
def layer():
    """Three samples, two slots each of four logical tokens; the last sample has one filler slot."""
    layer = PrunedLayer(DynamicLayer())
    states = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 4)
    valid = torch.tensor([[True, True], [True, True], [False, True]])
    layer.skip(Slots(torch.tensor([[0, 3], [1, 3], [2, 3]]), valid), skipped=2, fixed=4, stage=0)
    layer.expect(2)
    layer.update(states, states)
    return layer


def contents(layer):
    return layer.keys[:, 0, 0, 0].tolist(), layer.known.logical[:, 0].tolist(), layer.known.valid[:, 0].tolist()


def test_lengths(layer):
    assert layer.get_seq_length() == 4
    assert layer.get_mask_sizes(1) == (5, 0)
    assert layer.stored_length() == 2


def test_batch_operations_move_slots_with_their_states(layer):
    layer.reorder_cache(torch.tensor([2, 0, 0]))
    assert contents(layer) == ([2, 0, 0], [2, 0, 0], [False, True, True])
    layer.batch_select_indices(torch.tensor([1, 0]))
    assert contents(layer) == ([0, 2], [0, 2], [True, False])
    layer.batch_repeat_interleave(2)
    assert contents(layer) == ([0, 0, 2, 2], [0, 0, 2, 2], [True, True, False, False])


def test_an_unannounced_update_is_refused_and_changes_nothing(layer):
    with pytest.raises(PruningStateError, match="only be continued inside"):
        layer.update(torch.zeros(3, 1, 1, 4), torch.zeros(3, 1, 1, 4))
    assert layer.get_seq_length() == 4


def test_reset_forgets_the_pruning(layer):
    layer.reset()
    assert layer.get_seq_length() == 0
    assert layer.known is None
    assert layer.history == ()
