"""The command line on a saved tiny checkpoint: every command that loads a model, and every refusal that needs one."""

import json

import pytest

from support import checkpoint, tiny
from support.command_line import complaint, invoke
from vflowopt import Strategy

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = ("--max-new-tokens", 8)


def run(*arguments):
    return invoke(*arguments).stdout


def test_run_shows_both_answers(model, images):
    ask = ("run", "-m", model, "-i", images / "1.png", "-p", "w7 w8", "-s", "mean-attention@0.5", "--max-new-tokens", 3)
    told = json.loads(run(*ask, "--json"))
    (unit,) = told["units"]
    assert unit["counts"] == [(unit["tokens"] + 1) // 2]
    assert told["pruned"]["kv_cache_bytes"] < told["unpruned"]["kv_cache_bytes"]
    assert told["pruned"]["text"]
    assert "average retention" in run(*ask)


def test_retention_1_answers_as_unpruned(model, images):
    ask = ("run", "-m", model, "-i", images / "2.png", "-p", "w7", "-s", "mean-attention@1", *SHORT, "--json")
    told = json.loads(run(*ask))
    assert told["pruned"]["text"] == told["unpruned"]["text"]
    for row in (told["pruned"], told["unpruned"]):
        assert 0 < row["first_token"] < row["whole"]  # of one run, in which more tokens follow


def test_several_images(model, images):
    ask = ("run", "-m", model, "-i", images / "0.png", "-i", images / "1.png", "-p", "w7", "-s", "random@0.5", *SHORT)
    assert len(json.loads(run(*ask, "--json"))["units"]) == 2


def test_show_draws_a_png(model, images, tmp_path):
    from PIL import Image

    strategy = tmp_path / "s.json"
    Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.7, 0.6, 0.5), threshold=1.0, cell=2.0).save(strategy)
    run("show", "-m", model, "-i", images / "1.png", "-p", "w7", "-s", strategy, "--out", tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500


def test_videos_need_a_processor_that_takes_them(model, images):
    ask = ("run", "-m", model, "-v", images, "-p", "w7", "-s", "random@0.5")
    assert "must have one size" in complaint(*ask)
    line = complaint(*ask, "--frames", 1)
    assert "torchvision" in line
    assert "--image" in line


def test_optimize_writes_a_strategy_that_evaluate_reads(model, images, tmp_path):
    out, journal = tmp_path / "s.json", tmp_path / "j.jsonl"
    options = ("--images", images, "--prompt", "w7 w8", "--initial", 3, "--iterations", 1, "--journal", journal)
    found = json.loads(run("optimize", "-m", model, "--budget", 0.5, *options, "--out", out, "--json"))
    strategy = Strategy.load(out)
    assert found["evaluations"] == 4
    assert strategy.average_retention(tiny.LAYERS) == pytest.approx(0.5)
    assert strategy.provenance is not None
    assert strategy.provenance.samples == 3

    resumed = json.loads(run("optimize", "-m", model, "--budget", 0.5, *options, "--out", out, "--json"))
    assert resumed["score"] == found["score"]

    answer = json.loads(run("run", "-m", model, "-i", images / "0.png", "-p", "w9", "-s", "random@1", *SHORT, "--json"))
    lines = [{"image": "0.png", "question": "w9", "answers": [answer["unpruned"]["text"]]}]
    lines.append({"image": "1.png", "question": "w9", "answers": ["no such answer"]})
    (images / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ask = ("evaluate", "-m", model, "--data", images / "q.jsonl", "-s", out, "-s", "random@1", *SHORT)
    rows = json.loads(run(*ask, "--similarity", "--json"))
    assert [row["strategy"] for row in rows] == ["unpruned", str(out), "random@1"]
    assert rows[0]["accuracy"] == rows[2]["accuracy"] == 0.5
    assert rows[2]["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert rows[1]["retention"] == pytest.approx(0.5, abs=0.01)
    assert len(rows[1]["tokens"]) == 4
    assert "accuracy" in run(*ask)


def test_evaluate_skips_what_cannot_be_asked_and_names_it(model, images, tmp_path):
    """A picture that is cut short costs no other question, nor does one whose separators alone exceed the budget."""
    whole, small = (images / "0.png").read_bytes(), (images / "2.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rows.png").write_bytes(small)
    lines = [{"image": name, "question": "w9", "answers": ["?"]} for name in ("cut.png", "a.png", "rows.png", "a.png")]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ask = ("evaluate", "-m", model, "--data", tmp_path / "q.jsonl", "--max-new-tokens", 2, "-s", "random@0.08")
    result = invoke(*ask, "--similarity", "--json")
    rows = json.loads(result.stdout)
    assert [(row["questions"], row["skipped"]) for row in rows] == [(3, 1)] * 2
    (said,) = [note for note in result.stderr.splitlines() if note.startswith("skipped: ")]
    assert "q.jsonl', line 1: cannot read the image" in said
    assert "3 questions, 1 skipped in all rows" in " ".join(run(*ask).split())

    (tmp_path / "q.jsonl").write_text(json.dumps(lines[0]))
    assert "line 1: cannot read the image" in complaint(*ask)


def test_fit_writes_a_strategy_that_evaluate_reads(model, images, tmp_path):
    out = tmp_path / "fitted.json"
    ask = ("fit", "-m", model, "--method", "fitprune", "--images", images, "--prompt", "w7 w8", "--out", out)
    found = json.loads(run(*ask, "--budget", 0.6, "--samples", 2, "--json"))
    strategy = Strategy.load(out)
    assert found["strategy"] == strategy.model_dump(mode="json")
    assert found["retention"] == strategy.average_retention(tiny.LAYERS) == pytest.approx(0.6, abs=1e-9)
    assert (strategy.provenance.samples, strategy.provenance.num_layers) == (2, tiny.LAYERS)

    questions = images / "fitted.jsonl"
    questions.write_text(json.dumps({"image": "1.png", "question": "w9", "answers": ["no such answer"]}))
    rows = json.loads(run("evaluate", "-m", model, "--data", questions, "-s", out, *SHORT, "--json"))
    assert rows[1]["retention"] == pytest.approx(0.6, abs=0.5 / rows[1]["tokens"][0])

    assert "fitted to 3 samples" in run(*ask, "--budget", 0.7)
    before = out.read_bytes()
    assert "smallest feasible budget" in complaint(*ask, "--budget", 0.01)
    assert out.read_bytes() == before


def test_methods_that_rank_inside_the_decoder(model, images, tmp_path):
    first = ("-m", model, "-i", images / "0.png", "-p", "w7", "-s")
    assert json.loads(run("run", *first, "fastv@0.6", *SHORT, "--json"))["pruned"]["text"]
    out = tmp_path / "kept.png"
    run("show", *first, "pyramiddrop@0.6", "--out", out)
    assert out.stat().st_size > 1000
    ask = ("bench", "-m", model, "-i", images / "1.png", "-p", "w7", "--budgets", "0.5", "--rounds", 1, "--json")
    rows = json.loads(run(*ask, "-s", "sparsevlm@0.6,stages=2/4"))["runs"][0]["rows"]
    assert [row["name"] for row in rows] == ["unpruned", "50 %", "sparsevlm@0.6,stages=2/4"]
    assert rows[2]["retention"] == pytest.approx(0.6, abs=0.01)
    assert "smallest feasible budget lies above 0.3333" in complaint("run", *first, "fastv@0.3")


def test_bench_compares_with_unpruned(model, images):
    ask = ("bench", "-m", model, "-i", images / "1.png", "-p", "w7", "--budgets", "0.5", "--rounds", 1)
    (measured,) = json.loads(run(*ask, "--generate", 3, "--json"))["runs"]
    full, half = measured["rows"]
    assert full["name"] == "unpruned"
    assert half["flops"] < full["flops"]
    assert half["flops_by_torch"] == half["flops_all_pairs"]
    assert half["kv_cache_bytes"] < full["kv_cache_bytes"]
    assert half["times"]["decode per token"]["wall"]["median"] > 0
    (answers,) = half["generation"]
    assert (answers["mode"], set(answers["times"])) == ("eager", {"1", "3"})
    assert half["kernels"] == {}  # a CPU has none


def test_bench_sweeps_sizes_and_writes_files(model, images, tmp_path):
    out = tmp_path / "benched"
    ask = ("bench", "-m", model, "-i", images / "1.png", "-p", "w7", "--budgets", "0.5", "--rounds", 1)
    assert "Gains over unpruned, all runs" in run(*ask, "--batch", "1,2", "--text-tokens", "40", "--out", out)
    report = json.loads((out / "bench.json").read_text())
    assert [(found["batch"], found["text_tokens"]) for found in report["runs"]] == [(1, 40), (2, 40)]
    assert "Where the end-to-end prefill goes: 50 %" in (out / "bench.md").read_text()
    assert (out / "bench.png").stat().st_size > 1000
    assert "goes with --shape" in complaint(*ask, "--visual-tokens", "100")


def test_a_stage_beyond_the_last_layer_is_refused(model, images):
    ask = ("run", "-m", model, "-i", images / "0.png", "-p", "w7", "-s")
    assert "beyond the last decoder layer" in complaint(*ask, "preset:llava-onevision-7b/25")


def test_a_budget_below_the_separators_leaves_a_token(model, images, tmp_path):
    assert "pruned" in run("run", "-m", model, "-i", images / "2.png", "-p", "w7", "-s", "random@0.001", *SHORT)
    out = tmp_path / "s.json"
    run("optimize", "-m", model, "--images", images, "--budget", 0.001, "--initial", 2, "--iterations", 0, "--out", out)
    assert Strategy.load(out).average_retention(tiny.LAYERS) == pytest.approx(0.001, abs=1e-9)


def test_a_journal_of_another_model_is_refused(model, images, tmp_path):
    other = checkpoint.save(tmp_path / "other", seed=1)
    options = ("--images", images, "--prompt", "w7", "--initial", 2, "--iterations", 0, "--samples", 1)
    options = (*options, "--journal", tmp_path / "j.jsonl", "--budget", 0.5, "--out", tmp_path / "s.json")
    run("optimize", "-m", model, *options)
    assert "j.jsonl" in complaint("optimize", "-m", other, *options)


def test_an_importance_that_is_not_finite_is_refused(images, tmp_path):
    broken = checkpoint.save(tmp_path / "broken", broken=True)
    ask = ("run", "-m", broken, "-i", images / "0.png", "-p", "w7", "-s", "mean-attention@0.5")
    assert "not finite" in complaint(*ask)


def test_damaged_weights_are_one_line(model, images, tmp_path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    ask = ("run", "-m", tmp_path, "-i", images / "0.png", "-p", "w7", "-s", "mean-attention@0.5")
    assert "cannot load a model" in complaint(*ask)


def test_optimize_searches_what_prunes_before_the_language_model_alone(model, images, tmp_path):
    out = tmp_path / "s.json"
    search = ("--images", images, "--prompt", "w7", "--initial", 3, "--iterations", 0, "--out", out)
    run("optimize", "-m", model, "--budget", 0.25, "--stages", 0, "--fix", "mass=0", *search)
    found = Strategy.load(out)
    assert (found.schedule.boundaries, found.schedule.retention, found.mass) == ((0,), (0.25,), None)


def test_an_unknown_objective_or_dtype_is_refused(model, images, tmp_path):
    search = ("optimize", "-m", model, "--images", images, "--budget", "0.5", "--out", tmp_path / "s.json")
    assert "last-token" in complaint(*search, "--objective", "beauty")
    assert "float32" in complaint(*search, "--dtype", "float3")


def test_the_demo_needs_examples(model, tmp_path):
    assert "reference" in complaint("demo", "--model", model, "--out", tmp_path)
