"""What a benchmark says: ratios, where time goes, laws of growth, and the documents and pictures made of them."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from vflowopt.benchmark import (
    REST,
    Benchmark,
    BenchReport,
    BenchRow,
    Growth,
    GrowthPoint,
    GrowthSeries,
    Memory,
    Rates,
    Work,
    phases,
)
from vflowopt.benchmark.timing import Spread, Timing
from vflowopt.cli import app
from vflowopt.cli.bench_reports import heading, markdown, show, write
from vflowopt.cli.bench_tables import NOT_MEASURED, sweep, tables
from vflowopt.errors import InputError
from vflowopt.picture.bench_chart import GAINS, PHASES, draw_runs
from vflowopt.picture.growth_chart import COLORS, draw_growth


def timing(*wall):
    return Timing(Spread.of(wall), Spread.of([value / 2 for value in wall]))


def row(name, retention, flops, times, **more):
    return BenchRow(name, retention, (100, 50), (120, 70), flops, 2 * flops, 4096, times, **more)


FULL = row(
    "unpruned", 1.0, 8000, {
        "vision tower": timing(2.0, 2.0, 2.0), "entropy": timing(0.5, 0.5, 0.5), "LM prefill": timing(8.0, 8.0, 16.0),
        "end-to-end prefill": timing(11.0, 11.0, 22.0), "decode per token": timing(0.1, 0.1, 0.1),
    },
    kv_cache_by_layer=(2048, 2048), flops_by_torch=16000, work={"vision tower": Work(300, 10)},
    memory={"end-to-end prefill": Memory(2**20, 3 * 2**20)},
)  # fmt: skip
HALF = row(
    "half | it", 0.5, 4000, {
        "attention capture": timing(0.25, 0.25, 0.25), "planning": timing(0.25, 0.25, 0.25),
        "gathers": timing(0.5, 0.5, 0.5), "LM prefill": timing(4.0, 5.0, 8.0),
        "end-to-end prefill": timing(7.5, 7.5, 8.0),
    },
    kv_cache_by_layer=(1536, 512), work={"planning": Work(0, 50), "LM prefill": Work(4000, 20)},
)  # fmt: skip
RUN = Benchmark("CPU", (FULL, HALF), 2, 20, rates=Rates(flops=1000.0, moved=100.0))


def test_ratios_are_against_the_first_row():
    assert RUN.flops_ratio(HALF) == 2
    assert RUN.speedup(HALF, "LM prefill") == pytest.approx(8 / 5)
    assert RUN.speedup(HALF, "LM prefill", cpu=True) == pytest.approx(8 / 5)
    assert RUN.speedups(HALF, "LM prefill").values == (2.0, 1.6, 2.0)
    assert RUN.importance_share(HALF) == pytest.approx(0.125)
    assert RUN.speedup(HALF, "decode per token") is None
    assert RUN.speedups(HALF, "decode per token") is None
    assert RUN.leanest is HALF


def test_the_rest_is_what_the_parts_do_not_explain():
    split = {one.name: one for one in phases(RUN, HALF)}
    assert list(split) == [
        "vision tower", "attention capture", "planning", "LM prefill", "gathers", REST, "end-to-end prefill"
    ]  # fmt: skip
    assert split[REST].seconds == pytest.approx(7.5 - 2 - 0.25 - 0.25 - 5)
    assert split[REST].cpu == pytest.approx(split[REST].seconds / 2)
    assert split[REST].flops is None  # the whole was not counted
    counted = [one.share for one in split.values() if not one.within and one.name != "end-to-end prefill"]
    assert sum(counted) == pytest.approx(1)
    assert split["gathers"].within == "LM prefill"


def test_limits_are_by_flops_or_by_bytes_whichever_takes_longer():
    split = {one.name: one for one in phases(RUN, HALF)}
    assert split["vision tower"].limit == pytest.approx(300 / 1000)  # the tower's work is the unpruned row's
    assert split["planning"].limit == pytest.approx(50 / 100)
    assert split["LM prefill"].limit == pytest.approx(4)
    assert split["attention capture"].limit is None


def test_unpruned_entropy_is_no_part_of_the_prefill():
    assert [one.name for one in phases(RUN, FULL)] == ["vision tower", "LM prefill", REST, "end-to-end prefill"]
    assert phases(Benchmark("CPU", (row("unpruned", 1.0, 1, {}),)), row("unpruned", 1.0, 1, {})) == ()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
    points = [GrowthPoint(size, timing(3e-6 * size**power)) for size in (1000, 2000, 4000, 64000)]
    series = GrowthSeries("task", (*points, GrowthPoint(128000)))
    assert series.exponent() == pytest.approx(power)
    assert series.exponent(last=2, cpu=True) == pytest.approx(power)
    assert GrowthSeries("task", (points[0], GrowthPoint(2000))).exponent() is None


def test_the_tail_of_a_sum_of_laws_is_the_larger_one():
    points = [GrowthPoint(size, timing(1.0 + 1e-6 * size**2)) for size in (10, 100, 10000, 20000, 40000)]
    series = GrowthSeries("task", tuple(points))
    assert series.exponent() < 1.5
    assert series.exponent(last=3) == pytest.approx(2, abs=0.02)


GROWN = Growth("CPU", (
    GrowthSeries("planning", (GrowthPoint(1024, timing(0.1), Memory(0, 2048), 4096), GrowthPoint(2048, timing(0.2)))),
    GrowthSeries("capture", (GrowthPoint(1024, timing(0.1)), GrowthPoint(2048, None, None, 64))),
), limit=5.0)  # fmt: skip
REPORT = BenchReport("mid", "a shape", "vflowopt bench --shape mid", {"python": "3"}, (RUN,))
GROWTH = BenchReport("growth", "what grows", "vflowopt bench --growth", growth=GROWN)


@pytest.mark.parametrize("report", [REPORT, GROWTH])
def test_json_is_read_back_as_it_was(report):
    assert BenchReport.from_data(json.loads(json.dumps(report.to_data()))) == report


def test_what_is_no_report_is_refused():
    with pytest.raises(InputError, match="runs"):
        BenchReport.from_data({**REPORT.to_data(), "runs": [{"device": "CPU"}]})
    with pytest.raises(InputError, match="format"):
        BenchReport.from_data({**REPORT.to_data(), "format": "vflowopt/bench/0"})


def test_nothing_is_printed_where_nothing_was_measured():
    made = {table.title: table for table in tables(RUN)}
    full, half = ({line[0]: line[column] for line in made["Times"].rows} for column in (1, 2))
    assert "entropy" not in half  # no strategy takes it
    assert half["vision tower"] == "as unpruned"
    assert half["decode per token"] == NOT_MEASURED
    assert full["planning"] == "none"
    assert (full["LM prefill"], half["planning"]) == ("8.00 s (8.00 - 12.0 s)", "250 ms (250 - 250 ms)")
    gains = {line[0]: line[1] for line in made["Gains over unpruned"].rows}
    assert gains["LM prefill"] == "2.00x (1.80x - 2.00x)"
    assert gains["of the FLOPs ratio"] == "100 %"
    assert gains["decode per token"] == NOT_MEASURED
    retained = made["What is retained"].rows
    assert [line[-1] for line in retained] == ["2.0 MiB", NOT_MEASURED]
    (crossed,) = made["FLOPs of the LM prefill, cross-checked"].rows  # of the row that torch counted
    assert crossed[1:] == ("8,000", "16,000", "16,000", "0.00 %")
    assert made["KV cache per layer, after the prefill"].rows[1][1] == "0: 1.5 KiB, 1: 512 B"


def test_a_sweep_fits_a_terminal():
    name = "calibrated-attention@0.25,threshold=1.5,cell=3.5"
    run = replace(RUN, rows=(FULL, HALF, replace(HALF, name=name)))
    screen = Console(file=io.StringIO(), width=80)
    show(replace(REPORT, runs=(run, replace(run, batch=8))), screen)
    shown = screen.file.getvalue()
    assert {word for row in sweep([run]).rows for cell in row for word in cell.split()} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_markdown_holds_every_table():
    text = markdown(REPORT)
    assert "vflowopt bench --shape mid" in text
    for table in tables(RUN):
        assert f"### {table.title}" in text
    assert "| half \\| it |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(table.columns) + 1 for table in tables(RUN)}
    assert NOT_MEASURED in markdown(GROWTH)


def test_files_are_written_and_the_picture_shows_what_was_measured(tmp_path):
    files = write(REPORT, tmp_path)
    assert BenchReport.from_data(json.loads(files["json"].read_text())) == REPORT
    assert files["md"].read_text() == markdown(REPORT)
    colors = {color for _, color in Image.open(files["png"]).convert("RGB").getcolors(1 << 20)}
    assert {GAINS["LM prefill"], GAINS["end-to-end prefill"], PHASES["planning"], PHASES[REST]} <= colors
    assert PHASES["entropy"] not in colors  # no row used it


def test_longer_bars_are_faster_strategies():
    def widest(factor):
        fast = row("fast", 0.5, 4000, {"LM prefill": timing(*[8.0 / factor] * 3)})
        run = Benchmark("CPU", (row("unpruned", 1.0, 8000, {"LM prefill": timing(8.0, 8.0, 8.0)}), fast))
        pixels = np.asarray(draw_runs([run], "x").convert("RGB"))
        return (pixels == GAINS["LM prefill"]).all(axis=-1).sum(axis=1).max()

    assert widest(1.8) == pytest.approx(2 * widest(0.9), abs=4)  # the scale ends at the FLOPs ratio of both


def test_growth_is_drawn_by_series(tmp_path):
    files = write(GROWTH, tmp_path)
    colors = {color for _, color in Image.open(files["png"]).convert("RGB").getcolors(1 << 20)}
    assert {COLORS[0], COLORS[1]} <= colors
    assert draw_growth(Growth("CPU", (GrowthSeries("none", (GrowthPoint(10),)),), 1.0)).width > 100


def test_a_long_sweep_says_that_not_all_is_drawn():
    assert draw_runs([RUN] * 8, "x").height < 8 / 6 * draw_runs([RUN] * 6, "x").height
    assert heading(RUN) == "100 visual tokens, 20 text tokens, batch 2"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--growth"),
        (["--shape", "mid", "--growth"], "one of"),
        (["--shape", "mid", "--batch", "1,x"], "'1,x'"),
        (["--shape", "mid", "--batch", "0"], "less than 1"),
        (["--shape", "mid", "--text-tokens", ""], "--text-tokens"),
        (["--shape", "mid", "--visual-tokens", "2.5"], "--visual-tokens"),
        (["--shape", "nowhere"], "nowhere"),
        (["--shape", "mid", "--device", "meta"], "--device meta holds no numbers"),
        (["--shape", "mid", "--out", f"{__file__}/bench"], "Not a directory"),
    ],
)
def test_wrong_options_are_named_in_one_line(arguments, named):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("vflowopt: error: ")]
    assert named in line
