"""The shipped model end to end: the demo, and the search's objective against ``generate``."""

import json

import pytest
import torch
from typer.testing import CliRunner

from vflowopt import Strategy
from vflowopt.cli import app

reference = pytest.importorskip("vflowopt_reference")
if not (reference.path() / "model.safetensors").exists():
    pytest.skip("the weights are not there yet", allow_module_level=True)


@pytest.mark.slow
def test_the_demo_writes_what_it_promises(tmp_path):
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(tmp_path), "--json"])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [row["strategy"] for row in figures["outcomes"]] == ["unpruned", "50 %", "25 %", "10 %", "5 %"]
    for row, budget in zip(figures["outcomes"], (1, 0.5, 0.25, 0.1, 0.05), strict=True):
        assert row["retention"] == pytest.approx(budget, abs=0.01)
    sizes = [row["kv_cache_bytes"] for row in figures["benchmark"]["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    for budget in (50, 25, 10, 5):
        strategy = Strategy.load(tmp_path / f"reference-{budget}.json")
        assert strategy.average_retention(9) == pytest.approx(budget / 100)
    assert (tmp_path / "reference-25.png").stat().st_size > 10_000


def test_an_evaluation_says_what_two_generations_do(monkeypatch, capsys):
    """Measured side by side, the two procedures must also agree; the command would refuse to print."""
    from vflowopt_reference.cost import Cost, main

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    main(["--samples", "2"])
    assert "times faster" in capsys.readouterr().out
    assert Cost(preparation=2.0, ours=1.0, papers=8.0).whole(6) == pytest.approx(6.0)
