"""The shipped model end to end: the demo, and the study's shortcut against ``generate``."""

import json

import pytest
import torch
from typer.testing import CliRunner

from vflowopt import Strategy, prune
from vflowopt.cli import app
from vflowopt.cli.strategies import read_strategy

reference = pytest.importorskip("vflowopt_reference")
if not (reference.path() / "model.safetensors").exists():
    pytest.skip("the weights are not there yet", allow_module_level=True)


@pytest.fixture(scope="module")
def model():
    return reference.load_model()


@pytest.mark.slow
def test_the_demo_writes_what_it_promises(tmp_path):
    threads = torch.get_num_threads()
    try:
        result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(tmp_path), "--json"])
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [row["strategy"] for row in figures["outcomes"]] == ["unpruned", "50 %", "25 %", "10 %"]
    for row, budget in zip(figures["outcomes"], (1, 0.5, 0.25, 0.1), strict=True):
        assert row["retention"] == pytest.approx(budget, abs=0.01)
    sizes = [row["kv_cache_bytes"] for row in figures["benchmark"]["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    for budget in (50, 25, 10):
        strategy = Strategy.load(tmp_path / f"reference-{budget}.json")
        assert strategy.average_retention(9) == pytest.approx(budget / 100)
    assert (tmp_path / "reference-25.png").stat().st_size > 10_000


def test_the_study_reads_answers_as_generate_says_them(model):
    from vflowopt_reference.study.bank import QuestionBank

    examples, processor = reference.held_out(8), reference.load_processor()
    bank = QuestionBank(model, processor, examples)
    strategy = read_strategy("calibrated-attention@0.1,threshold=1.5,cell=3.5")(8)
    assert bank.unpruned().right == said_right(model, processor, examples)
    with prune(model, strategy):
        assert bank.score(strategy).right == said_right(model, processor, examples)


def said_right(model, processor, examples):
    right = 0
    for example in examples:
        inputs = processor(images=[example.image], text=[processor.prompt(example.question)])
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        right += processor.batch_decode(ids)[0] == example.answer
    return right


@pytest.mark.slow
def test_a_study_resumes(tmp_path, capsys):
    from vflowopt_reference.study.__main__ import main

    main(["--out", str(tmp_path), "--quick"])
    written = (tmp_path / "study.json").read_text()
    text = (tmp_path / "study.md").read_text()
    assert "times faster" in text
    assert "| 25% | **searched** |" in text
    main(["--out", str(tmp_path), "--quick"])
    assert (tmp_path / "study.json").read_text() == written
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path), "--samples", "3", "--questions", "5"])
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_strategies_of_all_models_are_compared_on_all_models(tmp_path):
    pytest.importorskip("vflowopt_qwen")
    from vflowopt_reference.tailoring import main

    options = ["--questions", "3", "--samples", "2", "--initial", "2", "--iterations", "1", "--seeds", "1"]
    main(["--out", str(tmp_path), *options])
    written, text = (tmp_path / "tailoring.json").read_text(), (tmp_path / "tailoring.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 10% |")]
    assert text.count("| **searched for this model** |") == 2
    assert len(rows) == 1 + len(reference.NAMES) + 3  # own, of the others by name, by hand, mean attention, random
    main(["--out", str(tmp_path), *options])
    assert (tmp_path / "tailoring.json").read_text() == written


def test_a_strategy_that_a_model_refuses_is_shown_as_refused():
    from vflowopt_reference.tailoring import markdown

    taken = {"right": 3, "questions": 4, "similarity": 0.9, "retention": 0.1}
    figures = {
        "reference/unpruned": {**taken, "right": 4},
        "reference/0.1/searched for reference-next/0": {"refused": "too few"},
        "reference/0.1/searched for reference-next/1": taken,
        "reference/0.1/searched for reference-qwen2vl/0": {"refused": "too few"},
    }
    text = markdown(figures, dict.fromkeys(("questions", "samples", "initial", "iterations", "seeds"), 1), "command")
    assert "| 10% | searched for reference-next | 75.0% (75.0%, 1 of 2 seeds) |" in text
    assert "| 10% | searched for reference-qwen2vl | refused |" in text
