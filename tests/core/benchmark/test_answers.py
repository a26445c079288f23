"""Answers and kernels of a benchmark: figures that follow from known times, tables, documents, and options."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from vflowopt.benchmark import Benchmark, BenchReport, BenchRow, Generation, Kernels
from vflowopt.benchmark.timing import Spread, Timing
from vflowopt.cli import app
from vflowopt.cli.bench_cells import NOT_MEASURED
from vflowopt.cli.bench_reports import markdown, show
from vflowopt.cli.bench_tables import sweeps, tables
from vflowopt.picture.bench_chart import ANSWERS, draw_runs


def timing(*wall):
    return Timing(Spread.of(wall), Spread.of(wall))


def row(name, retention, generation, kernels):
    times = {"LM prefill": timing(0.1, 0.1), "end-to-end prefill": timing(0.25 * retention, 0.25 * retention)}
    return BenchRow(name, retention, (100,), (120,), 8, 16, 4096, times, kernels=kernels, generation=generation)


FULL = row(
    "unpruned", 1.0,
    (
        Generation("eager", 3.0, {1: timing(0.2, 0.4), 5: timing(0.6, 1.2)}, Kernels(90, 100, 0.15, 0.12)),
        Generation("compiled", 47.0, {1: timing(0.2, 0.4), 5: timing(0.3, 0.6)}),
    ),
    {"LM prefill": Kernels(40, 50, 0.06, 0.075)},
)  # fmt: skip
HALF = row(
    "50 %", 0.5,
    (
        Generation("eager", 2.0, {1: timing(0.1, 0.1), 5: timing(0.5, 0.8)}),
        Generation("compiled", 9.0, {1: timing(0.1, 0.1), 5: timing(0.1, 0.2)}),
    ),
    {"LM prefill": Kernels(None, 60, 0.03, 0.2)},
)  # fmt: skip
RUN = Benchmark("a GPU", (FULL, HALF), batch=8, text_tokens=20)
REPORT = BenchReport("mid", "a shape", "vflowopt bench --shape mid", runs=(RUN,))


def test_a_rate_is_of_all_samples_after_the_first_token():
    assert FULL.generated("eager").rate(8).values == pytest.approx((8 * 4 / 0.4, 8 * 4 / 0.8))
    assert HALF.generated("compiled").rate(8) is None  # in one round the rest took no time
    assert Generation("eager", 1.0, {1: timing(0.1)}).rate(1) is None


def test_gains_are_against_unpruned_in_the_same_mode():
    assert RUN.generation_speedups(HALF, "eager", 5).values == pytest.approx((1.2, 1.5))
    assert RUN.generation_speedups(HALF, "compiled", 1).values == pytest.approx((2, 4))
    assert RUN.generation_speedups(HALF, "eager", 32) is None
    assert RUN.generation_speedups(replace(HALF, generation=()), "eager", 5) is None


def test_a_device_idles_for_what_nothing_ran():
    assert FULL.kernels["LM prefill"].idle(0.1) == pytest.approx(0.25)
    assert HALF.kernels["LM prefill"].idle(0.1) == 0  # the profiled run was slower than the median


def test_tables_say_all_of_it():
    made = {table.title: table for table in tables(RUN)}
    answers = made["Answers"]
    assert answers.columns[2:] == ("prefill", "first token", "5 tokens", "tokens per second", "first calls")
    assert answers.rows[0] == (
        "unpruned", "eager", "250 ms (250 - 250 ms)",
        "300 ms (250 - 350 ms)", "900 ms (750 ms - 1.05 s)", "60.0 (50.0 - 70.0)", "3.00 s",
    )  # fmt: skip
    assert [line[:2] for line in answers.rows] == [
        ("unpruned", "eager"), ("50 %", "eager"), ("unpruned", "compiled"), ("50 %", "compiled")
    ]  # fmt: skip
    assert answers.rows[-1][-2:] == (NOT_MEASURED, "9.00 s")
    gains = made["Answers: gains over unpruned"].rows
    assert [line[2:4] for line in gains] == [("eager", "50 %"), ("compiled", "50 %")]
    assert [line[4] for line in gains] == ["2.00x (2.00x - 2.00x)", "as eager"]
    assert gains[1][-1] == "3.00x (3.00x - 3.00x)"
    device = made["What the device did"].rows
    assert device == (
        ("unpruned", "LM prefill", "100 ms", "60.0 ms", "50", "40", "25 %"),
        ("unpruned", "first token, eager", "300 ms", "150 ms", "100", "90", "60 %"),
        ("50 %", "LM prefill", "100 ms", "30.0 ms", "60", NOT_MEASURED, "0 %"),
    )


def test_what_was_not_measured_has_no_table():
    rows = [replace(one, generation=(), kernels={}) for one in RUN.rows]
    bare = replace(RUN, rows=tuple(rows))
    assert {"Answers", "Answers: gains over unpruned", "What the device did"}.isdisjoint(
        one.title for one in tables(bare)
    )
    assert len(sweeps([bare, bare])) == 1


def test_json_is_read_back_as_it_was():
    data = json.loads(json.dumps(REPORT.to_data()))
    assert BenchReport.from_data(data) == REPORT
    for old in data["runs"][0]["rows"]:  # as written before answers were measured
        del old["generation"], old["kernels"]
    assert BenchReport.from_data(data).runs[0].rows[0].generation == ()


def test_a_sweep_shows_gains_of_answers():
    other = replace(RUN, batch=1)
    screen = Console(file=io.StringIO(), width=80)
    show(replace(REPORT, runs=(RUN, other)), screen)
    shown = screen.file.getvalue()
    assert "Answers: gains over unpruned" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "## Answers: gains over unpruned" in markdown(replace(REPORT, runs=(RUN, other)))


def test_the_picture_shows_answers_in_every_mode():
    pixels = np.asarray(draw_runs([RUN], "x").convert("RGB")).reshape(-1, 3)
    colors = set(map(tuple, pixels))
    assert {ANSWERS["eager"], ANSWERS["compiled"]} <= colors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--shape", "mid", "--generate", "1,x"], "'1,x'"),
        (["--shape", "mid", "--generate", "0"], "less than 1"),
        (["--shape", "mid", "--modes", "compiled"], "--generate"),
        (["--shape", "mid", "--generate", "2", "--modes", "eager,fast"], "'fast'"),
        (
            ["--shape", "mid", "--generate", "2", "--modes", "compiled", "--device", "cpu"],
            "--modes compiled is for accelerators",
        ),
        (["--growth", "--generate", "2"], "--growth has no model"),
    ],
)
def test_wrong_options_are_named_in_one_line(arguments, named):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("vflowopt: error: ")]
    assert named in line
