"""Packed views are told apart by the mask that confines attention to them, and by no other mask."""

import pytest
import torch

from support.waiting import Waits
from vflowopt_hf.vision.capture import TorchAttention, VisionCapture
from vflowopt_hf.vision.vision_call import VisionCall, packed_lengths


def blocks(*lengths):
    return torch.block_diag(*(torch.ones(length, length) for length in lengths)).bool()[None, None]


LOWEST = torch.finfo(torch.float32).min


def additive(seen, hidden=LOWEST):
    return torch.zeros(seen.shape).masked_fill(~seen, hidden)


@pytest.mark.parametrize("lengths", [(5,), (1,), (3, 4), (2, 1, 1, 6), (1, 1, 1)])
@pytest.mark.parametrize("kind", [lambda seen: seen, additive, lambda seen: additive(seen, float("-inf"))])
def test_block_masks_tell_the_lengths(lengths, kind):
    assert packed_lengths(None, kind(blocks(*lengths))) == list(lengths)


def test_bounds_come_first():
    assert packed_lengths(torch.tensor([0, 3, 7], dtype=torch.int32), blocks(7)) == [3, 4]


CAUSAL = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
ALTERNATING = (torch.arange(6)[:, None] % 2 == torch.arange(6) % 2)[None, None]
HIDDEN_KEYS = blocks(3, 3) & (torch.arange(6) != 5)
WINDOW = (torch.arange(6)[:, None] - torch.arange(6)).abs()[None, None] < 2
NEIGHBOUR_TOO = blocks(2, 2, 2) | (torch.arange(6) == 2)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        CAUSAL,
        additive(CAUSAL),
        ALTERNATING,
        HIDDEN_KEYS,
        WINDOW,
        NEIGHBOUR_TOO,
        torch.zeros(1, 1, 6, 6, dtype=torch.bool),
        blocks(3, 3).expand(2, -1, -1, -1),
        blocks(3, 3)[..., :5],
        torch.ones(1, 6),
        "of another kind",
    ],
)
def test_other_masks_tell_nothing(mask):
    assert packed_lengths(None, mask) is None


def test_captured_views_weigh_as_the_mask_confines_them():
    """Column sums of the masked softmax over the whole sequence, block by block."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 4, 9, 8, generator=generator)
    mask, capture = additive(blocks(4, 3, 2)), VisionCapture(class_tokens=0)
    with capture.recording() as calls:
        capture.note(query, key, key, 0.7, None, mask)
    source = TorchAttention.of_calls(calls)
    weights = ((query.double() @ key.double().transpose(2, 3)) * 0.7 + mask).softmax(-1)[0].mean(0)
    assert len(source) == 3
    for view, columns in enumerate(weights.sum(0).split([4, 3, 2])):
        found: TorchAttention = source.views(slice(view, view + 1))
        torch.testing.assert_close(found.received()[0].double(), columns, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bounds", [None, torch.tensor([0, 4, 7, 11])])
def test_what_the_host_knows_of_packed_views_is_not_read_from_the_device(bounds):
    """A call of three views, then one of two: lengths come from the units, and equal neighbours stay together."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 4, 18, 8, generator=generator)
    lengths = [4, 3, 4, 4, 3]
    calls = [
        VisionCall(query[:, :, :11], key[:, :, :11], 0.7, bounds, None if bounds is not None else blocks(4, 3, 4)),
        VisionCall(query[:, :, 11:], key[:, :, 11:], 0.7, None, blocks(4, 3)),
    ]
    with Waits() as waits:
        waits.recording = True
        known = TorchAttention.of_calls(calls, packed=lengths)
    assert waits.found == []
    assert len(known) == 5
    read = TorchAttention.of_calls(calls)
    for view in range(5):
        one = slice(view, view + 1)
        assert torch.equal(known.views(one).received(), read.views(one).received())
    pair = known.views(slice(2, 4)).received()
    assert torch.equal(pair[:1], read.views(slice(2, 3)).received())


@pytest.mark.parametrize("packed", [[4, 4], [4, 3, 4, 1], [11], [5, 3, 3]])
def test_lengths_that_do_not_fit_are_not_believed(packed):
    query, key = torch.randn(2, 1, 4, 11, 8, generator=torch.Generator().manual_seed(0))
    call = VisionCall(query, key, 0.7, torch.tensor([0, 4, 7, 9, 11]))
    source = TorchAttention.of_calls([call], packed=packed)
    assert len(source) == 4
    assert [len(keys[0]) for keys in source.keys] == [4, 3, 2, 2]
