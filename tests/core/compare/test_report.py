"""Tables, CSV and picture from made-up results."""

import csv
import io
import statistics

import numpy as np
import pytest

from vflowopt.compare import UNPRUNED, Cell, Result, rows_of, wilson, write_report
from vflowopt.compare.chart import PANEL, ticks
from vflowopt.compare.report import as_csv, markdown

NAMES = {name: name for name in (UNPRUNED, "random", "a|b", "mine.json", "fastv")}
QUESTIONS = 20


def result(method, at, seed, right, **changes):
    kept = at or 1.0
    figures = {
        "budget": kept,
        "right": tuple(number < right for number in range(QUESTIONS)),
        "similarity": 0.9,
        "retention": kept,
        "tokens": (400.0, 400.0 * kept),
        "kv_cache_bytes": 1000 * kept,
        "flops": 2000 * kept,
    }
    return Result(Cell("m", method, at, seed), **{**figures, **changes})


def times(share):
    return dict.fromkeys(("LM prefill", "end-to-end prefill", "decode per token"), (share, 1.0))


RESULTS = [
    result(UNPRUNED, None, None, 19),
    result("mine.json", None, None, 17, budget=0.37, retention=0.37, latency=times(0.4)),
    result("random", 0.5, 0, 10, latency=times(0.6)),
    result("random", 0.5, 1, 14, latency=times(0.8)),
    result("a|b", 0.5, None, 16, deviation=0.7, latency=times(0.5)),
    Result(Cell("m", "fastv", 0.1, None), cannot="the smallest | feasible budget is 0.2", budget=0.1),
]


@pytest.fixture
def rows():
    found = {one.cell: one for one in RESULTS}
    return rows_of(found, found, NAMES)


def table(text):
    lines = [line.replace("\\|", "\0") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("\0", "|") for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_rows_are_ordered_and_averaged_over_seeds(rows):
    assert [(row.method, row.budget) for row in rows] == [
        (UNPRUNED, 1.0), ("random", 0.5), ("a|b", 0.5), ("mine.json", 0.37), ("fastv", 0.1),
    ]  # fmt: skip
    random = rows[1]
    assert random.accuracy == pytest.approx(12 / 20)
    assert random.interval == wilson(12, 20)
    assert random.difference[0] == pytest.approx((10 - 19 + 14 - 19) / 2 / 20)
    assert random.relative_latency("LM prefill") == pytest.approx(0.7)


def test_seeds_that_cannot_be_run_are_counted_out():
    found = {one.cell: one for one in (*RESULTS, Result(Cell("m", "random", 0.5, 2), cannot="too small", budget=0.5))}
    (row,) = [row for row in rows_of(found, found, NAMES) if row.method == "random"]
    assert (row.cannot, row.accuracy) == ("", pytest.approx(0.6))
    assert row.texts()[1] == "random (2 of 3 seeds)"
    assert len(as_csv({"m": [row]}).splitlines()) == 1 + 3


def test_markdown(rows):
    unpruned, random, other, file, cannot = table(markdown({"m": rows}, "Said before."))
    assert unpruned["accuracy"] == "95.0 %"
    assert unpruned["against unpruned"] == ""
    assert random["method"] == "random (2 seeds)"
    assert random["accuracy"] == "60.0 % (50.0 % to 70.0 %)"
    assert random["against unpruned"].startswith("-35.0 (")
    assert (random["budget"], other["budget"], file["budget"]) == ("50.0 %", "", "37.0 %")
    assert (other["method"], other["off by"]) == ("a|b", "0.70 (!)")
    assert random["off by"] == "0.00"
    assert random["visual tokens"] == "400 > 200"
    assert (random["KV cache"], random["FLOPs"]) == ("50.0 %", "50.0 %")
    assert random["prefill"] == "70.0 % (700 ms)"
    assert cannot["accuracy"] == "cannot: the smallest | feasible budget is 0.2"


def test_accuracies_of_several_models_stand_side_by_side(rows):
    assert "## Accuracy" not in markdown({"m": rows}, "")
    text = markdown({"m": rows, "n": rows[:2]}, "")
    side_by_side = table(text[: text.index("## m")])
    assert list(side_by_side[0]) == ["budget", "method", "m", "n"]
    assert [(line["method"], line["m"], line["n"]) for line in side_by_side] == [
        (UNPRUNED, "95.0 %", "95.0 %"),
        ("random", "60.0 % (50.0 % to 70.0 %)", "60.0 % (50.0 % to 70.0 %)"),
        ("a|b", "80.0 %", ""),
        ("mine.json", "85.0 %", ""),
        ("fastv", "cannot", ""),
    ]


def test_without_times_there_are_no_columns_for_them(rows):
    bare = [type(row)(row.method, row.budget, row.results[:1], row.unpruned) for row in rows[:1]]
    assert "decode" not in table(markdown({"m": bare}, ""))[0]


def test_csv_has_a_line_per_cell(rows):
    lines = list(csv.DictReader(io.StringIO(as_csv({"m": rows}))))
    assert len(lines) == len(RESULTS)
    seeds = [line for line in lines if line["method"] == "random"]
    assert [line["seed"] for line in seeds] == ["0", "1"]
    assert statistics.fmean(float(line["accuracy"]) for line in seeds) == pytest.approx(0.6)
    assert [line["on_budget"] for line in lines if line["method"] == "a|b"] == ["False"]
    (refused,) = [line for line in lines if line["cannot"]]
    assert refused["accuracy"] == refused["prefill_s"] == ""


def test_the_picture_has_a_plot_per_model_and_quantity(rows, tmp_path):
    from PIL import Image

    files = write_report(tmp_path, {"m": rows, "n": rows}, "")
    with Image.open(files["png"]) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == 2 * PANEL[0]
    assert pixels.shape[0] > 2 * PANEL[1]
    colored = np.ptp(pixels, axis=2) > 60
    for row in (0, 1):
        for column in (0, 1):
            top, left = row * PANEL[1], column * PANEL[0]
            assert colored[top : top + PANEL[1], left : left + PANEL[0]].sum() > 100


def test_nothing_finished_is_an_empty_report(tmp_path):
    files = write_report(tmp_path, {"m": []}, "")
    assert all(path.exists() for path in files.values())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.83, 0.99), (0.5, 0.5), (0.0, 1.37), (0.0, 25.0)])
def test_ticks_enclose_their_range(low, high):
    values = ticks(low, high)
    assert values[0] <= low + 1e-9
    assert values[-1] >= high - 1e-9
    assert 2 <= len(values) <= 9
    assert np.ptp(np.diff(values)) < 1e-6
