"""What speaks against recordings of a module, and what makes another one of it."""

import pytest
import torch
from torch import nn

from vflowopt_hf.graphs.modules import Recorded


def module():
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))).eval()


def quantised(root):
    root[1][1].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: setattr(root[1], "_hf_hook", object()), "accelerate has put hooks"),
        (lambda root: setattr(root[0], "_active_adapter", ["own"]), "adapters that can be switched"),
        (lambda root: root.train(), "training mode"),
        (lambda root: setattr(root[0], "forward", torch.compile(root[0].forward)), "parts of it are compiled"),
        (lambda root: root[1].compile(), "parts of it are compiled"),
        (lambda root: root[1][0].register_forward_hook(lambda *_: None), "put a hook on its ReLU"),
        (quantised, "quantised"),
        (lambda root: root[0].to("meta"), "several devices"),
    ],
)
def test_reasons_against_recording(change, reason):
    root = module()
    recorded = Recorded(root)
    before, nothing = recorded.state()
    assert nothing is None
    change(root)
    after, found = recorded.state()
    assert after != before
    assert reason in found


def test_the_state_is_that_of_the_modules_and_where_the_weights_are():
    root = module()
    recorded, found = Recorded(root), []
    other = nn.Linear(2, 2)
    for change in (
        lambda: None,
        lambda: root[0].weight.data.add_(1),
        lambda: setattr(root[0], "weight", nn.Parameter(torch.ones(2, 2))),
        lambda: root.__setitem__(0, other),
    ):
        change()
        found.append(recorded.state()[0])
    assert found[0] == found[1]
    assert len(set(found)) == 3
