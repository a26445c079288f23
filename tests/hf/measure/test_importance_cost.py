"""The importance pass beside a tower: what the table says, on sizes that take no time."""

import pytest
import torch

from vflowopt_hf.measure import importance_cost
from vflowopt_hf.measure.importance_cost import HEADER, main, measure, top


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_to_float64(dtype):
    cost = measure(2, 100, dtype, torch.device("cpu"), rounds=1)
    assert cost.error < 1e-6
    assert cost.changed == 0
    assert cost.share.median == pytest.approx(cost.passes.median / cost.block.median / importance_cost.BLOCKS)


def test_the_error_is_told(monkeypatch):
    right = importance_cost.in_float64
    monkeypatch.setattr(importance_cost, "in_float64", lambda *view: right(*view)[::-1])
    cost = measure(1, 100, torch.float32, torch.device("cpu"), rounds=1)
    assert cost.error > 0.01
    assert cost.changed > 0


def test_the_most_important():
    assert top(torch.tensor([0.1, 0.3, 0.2, 0.3]).numpy(), 3) == [1, 3, 2]


def test_table(capsys, monkeypatch):
    monkeypatch.setattr(importance_cost, "EXACT", 20)
    main(["--sizes", "1x20,2x30", "--rounds", "1"])
    head, _, *found = capsys.readouterr().out.splitlines()
    assert head == f"| {' | '.join(HEADER)} |"
    cells = [row.strip("| ").split(" | ") for row in found]
    assert [row[:2] for row in cells] == [
        ["1 x 20", "float32"], ["1 x 20", "bfloat16"], ["2 x 30", "float32"], ["2 x 30", "bfloat16"],
    ]  # fmt: skip
    assert [row[6] for row in cells] == ["0 of 2", "0 of 2", "not computed", "not computed"]
