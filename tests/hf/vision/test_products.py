"""Attention modules that call torch's product themselves: observed, refused where that cannot be, left as found."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from support.cases import perception_lm
from support.timm_like import HEADS, WIDTH, Attention
from vflowopt.errors import PruningStateError, UnsupportedModelError
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.capture import TorchAttention, capture_attention


class ByHand(nn.Module):
    """No product of torch's."""

    def forward(self, x):
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


class Masked(nn.Module):
    """With a bias in the place of the mask."""

    def forward(self, x):
        return scaled_dot_product_attention(x[None], x[None], x[None], attn_mask=torch.zeros(len(x[0]), len(x[0])))


def test_what_is_received_is_the_column_sums_of_the_weights():
    torch.manual_seed(0)
    module, hidden = Attention(), 3 * torch.randn(2, 10, WIDTH)
    with torch.no_grad():
        expected = module(hidden)
        with capture_attention(module, class_tokens=1) as capture, capture.recording() as calls:
            assert torch.equal(module(hidden), expected)
        query, key, _ = module.qkv(hidden).double().unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5).softmax(-1).mean(1)
    source = TorchAttention.of_calls(calls, 1)
    assert (source.received() - weights[:, 1:, 1:].sum(1)).abs().max() <= 1e-5
    assert (source.of_class_token - weights[:, 0, 1:]).abs().max() <= 1e-6
    assert "forward" not in vars(module)


@pytest.mark.parametrize(
    ("module", "says"), [(ByHand(), "nor calls torch's"), (Masked(), "Masked attends with a mask")]
)
def test_what_cannot_be_observed_is_refused(module, says):
    with capture_attention(module), pytest.raises(UnsupportedModelError, match=says):
        module(torch.randn(1, 6, 8))
    assert "forward" not in vars(module)


def test_a_tower_without_a_class_token_and_a_copy_while_it_is_pruned():
    own = Subject(perception_lm.CASE, "sdpa")
    own.model = perception_lm.tiny_perception_lm(class_token=False)
    batch = own.batch(own.several())
    strategy = own.strategy(batch)
    with own.prune(strategy) as pruning, torch.no_grad():
        own.model(**batch.inputs)
        with pytest.raises(PruningStateError, match="cannot be copied"):
            copy.deepcopy(own.model)
    assert [unit.tokens for unit in pruning.report.units] == [placed.unit.layout.tokens for placed in batch.placed]
    copy.deepcopy(own.model)
