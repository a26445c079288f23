"""Tables, CSV and pictures of made-up results."""

import csv

import numpy as np
import pytest
from PIL import Image

from vflowopt import Strategy
from vflowopt.ablation import MAIN_SET, Plan, Table, studies_of, write_report
from vflowopt.ablation.curves import curves
from vflowopt.ablation.report import markdown
from vflowopt.compare import UNPRUNED, Cell, Result, rows_of, wilson

PLAN = Plan(samples=4, initial=2, iterations=2, sample_counts=(2, 8), evaluation_counts=(2, 4))
QUESTIONS, SEEDS = 20, 2
STRATEGY = Strategy.vflowopt(num_layers=9, retention=(0.5, 0.4, 1.0), threshold=1.25, cell=3.5)


def result(method, budget, seed, right, **more):
    answers = tuple(number < right for number in range(QUESTIONS))
    return Result(
        Cell("m|n", method, budget, seed), budget=budget or 1.0, right=answers, similarity=right / QUESTIONS,
        retention=budget or 1.0, tokens=(10.0,), kv_cache_bytes=1.0, flops=1.0,
        **({} if budget is None else {"strategy": STRATEGY.model_dump(mode="json"), "score": 0.9 + seed / 100} | more),
    )  # fmt: skip


def table(name, right, cannot=()):
    """``right(index of the row, seed)`` questions; rows of ``cannot`` could not be run."""
    (study,) = studies_of([name], PLAN, [MAIN_SET, "set 1"], ["other"])
    results = [result(UNPRUNED, None, None, 20)]
    for budget in (0.5, 0.25):
        for index, line in enumerate(study.lines):
            for seed in range(SEEDS):
                cell = Cell("m|n", line.variant.name, budget, seed)
                refused = Result(cell, cannot="too small", budget=budget)
                results.append(
                    refused if index in cannot else result(line.variant.name, budget, seed, right(index, seed))
                )
    found = {one.cell: one for one in results}
    return Table("m|n", study, rows_of(found, found, study.names))


def lines_of(text, heading):
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.replace("\\|", "\0").strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip().replace("\0", "|") for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in body]


def test_markdown():
    own = table("search", lambda index, seed: 18 - 2 * index - seed, cannot=(2,))
    text = markdown([own], "Said before.")
    assert "### m\\|n" in text
    unpruned, searched, plain, random, *quarter = lines_of(text, "Search")
    assert (unpruned["search"], unpruned["accuracy"], unpruned["search score"]) == (UNPRUNED, "100.0 %", "")
    assert searched["accuracy"] == "87.5 % (85.0 % to 90.0 %)"
    assert searched["of unpruned"] == "87.5 %"
    assert searched["against Bayesian search"] == ""
    assert plain["against Bayesian search"].startswith("-10.0 (")
    assert plain["95 % interval"] == " to ".join(f"{100 * bound:.1f} %" for bound in wilson(15.5, QUESTIONS))
    assert plain["search score"] == "0.9050 (0.9000 to 0.9100)"
    assert (random["accuracy"], random["similarity"]) == ("cannot: too small", "")
    assert [row["budget"] for row in (unpruned, searched, plain, *quarter[:1])] == ["100.0 %", "50.0 %", "", "25.0 %"]
    first, *_ = lines_of(text, "Strategies found")
    assert (first["budget"], first["seed"], first["recycler"]) == ("50.0 %", "0", "grid cell=3.5")
    assert "threshold=1.25" in first["scorer"]
    assert first["retention from layer on"] == "0: 50.0 %, 3: 20.0 %, 6: 20.0 %"


def test_a_first_row_that_cannot_be_run_leaves_nothing_to_compare_with():
    own = table("search", lambda index, seed: 18, cannot=(0,))
    assert [own.against(row) for row in own.rows] == [""] * len(own.rows)


def test_seeds_that_cannot_be_run_are_counted_out():
    own = table("search", lambda index, seed: 18)
    one = own.rows[1]
    refused = Result(one.results[1].cell, cannot="too small", budget=0.5)
    fewer = Table(own.model, own.study, [type(one)(one.method, one.budget, (one.results[0], refused), one.unpruned)])
    ((_, name, *_),) = fewer.texts()
    assert name == "Bayesian search (1 of 2 seeds)"


def test_the_spread_over_sample_sets():
    own = table("samples", lambda index, seed: 18 - 4 * index)
    half, quarter = own.spread_over_rows()
    assert half.startswith("Over 2 sample sets at 50.0 %: ")
    assert quarter == (
        "Over 2 sample sets at 25.0 %: accuracy 80.0 % (70.0 % to 90.0 %), similarity 0.8000 (0.7000 to 0.9000)."
    )
    assert quarter in markdown([own], "")


def test_csv_has_a_line_per_study_and_cell(tmp_path):
    tables = [table("search", lambda index, seed: 18), table("objective", lambda index, seed: 18)]
    write_report(tmp_path, tables, "")
    with (tmp_path / "ablate.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 + 2 * SEEDS * (3 + 6)
    shared = [line for line in lines if line["method"] in ("Bayesian search", "last-token")]
    assert len({line["search"] for line in shared}) == 1
    assert [line["search_score"] for line in shared[:2]] == ["0.9", "0.91"]


def test_curves_are_over_what_is_varied():
    samples_accuracy, samples_similarity, evaluations_accuracy, _ = curves(
        "m", (own := table("effort", lambda index, seed: 10 + 2 * index - seed)).study, own.rows
    )
    assert [line.name for line in own.study.lines] == [
        "4 samples, 4 evaluations", "2 samples, 4 evaluations", "8 samples, 4 evaluations", "4 samples, 2 evaluations",
    ]  # fmt: skip
    assert [series.name for series in samples_accuracy.series] == ["50.0 %", "25.0 %"]
    points = {point.x: (point.y, point.low, point.high) for point in samples_accuracy.series[0].points}
    assert points == {x: (right / 20, *wilson(right, 20)) for x, right in ((4, 9.5), (2, 11.5), (8, 13.5))}
    seeds = {point.x: (point.low, point.high) for point in samples_similarity.series[0].points}
    assert seeds == {4: (0.45, 0.5), 2: (0.55, 0.6), 8: (0.65, 0.7)}
    assert {point.x: point.y for point in evaluations_accuracy.series[0].points} == pytest.approx({4: 0.475, 2: 0.775})


def test_pictures_show_every_row(tmp_path):
    tables = [table(name, lambda index, seed: 18 - index) for name in ("components", "effort")]
    write_report(tmp_path, tables, "")
    for name in ("components", "effort"):
        with Image.open(tmp_path / f"ablate-{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert (np.ptp(pixels, axis=2) > 60).sum() > 200
    few = [table("search", lambda index, seed: 18, cannot=cannot) for cannot in ((), (1, 2))]
    heights = []
    for number, own in enumerate(few):
        (tmp_path / str(number)).mkdir()
        write_report(tmp_path / str(number), [own], "")
        with Image.open(tmp_path / str(number) / "ablate-search.png") as picture:
            heights.append(picture.height)
    assert heights[0] > heights[1]


def test_nothing_finished_is_an_empty_report(tmp_path):
    (study,) = studies_of(["search"], PLAN)
    assert all(path.exists() for path in write_report(tmp_path, [Table("m", study, [])], ""))
