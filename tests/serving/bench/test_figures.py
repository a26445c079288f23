"""Figures of a benchmark by hand, and the tables that show them."""

import json

import pytest
from rich.console import Console

from vflowopt.cli.tables import print_table
from vflowopt_vllm.bench.result import FORMAT, Answer, Round, ServedRow, ServingBenchmark
from vflowopt_vllm.bench.tables import tables
from vflowopt_vllm.bench.workload import Workload


def one_round(seconds, firsts, prompt):
    return Round(seconds, tuple(Answer(first, first + 0.5, prompt, 8) for first in firsts))


MEASURED = ServingBenchmark(
    model="somewhere/model",
    vllm="0.32.0",
    device="CPU",
    arguments=("--dtype", "float32"),
    workload=Workload(clients=2, requests=4, max_tokens=8),
    rows=(
        ServedRow("unpruned", (one_round(4.0, [1, 2, 3, 4], 2060), one_round(8.0, [2, 4, 6, 8], 2060))),
        ServedRow("0.25", (one_round(2.0, [0.5, 1, 1.5, 2], 560), one_round(2.0, [0.5, 1, 1.5, 2], 560))),
    ),
)


def test_figures_of_a_round():
    one = MEASURED.unpruned.rounds[0]
    assert one.requests_per_second == 4 / 4.0
    assert one.output_tokens_per_second == 4 * 8 / 4.0
    assert (one.first_token.low, one.first_token.median, one.first_token.high) == (1.75, 2.5, 3.25)


def test_ratios_are_within_rounds():
    unpruned, pruned = MEASURED.rows
    ratios = MEASURED.times_as_many(pruned, lambda one: one.requests_per_second)
    assert ratios.values == (2.0, 4.0)
    assert ratios.median == 3.0
    assert MEASURED.times_as_many(unpruned, lambda one: one.requests_per_second).values == (1.0, 1.0)
    assert (unpruned.prompt_tokens, pruned.prompt_tokens) == (2060, 560)


def test_tables():
    throughput, first = tables(MEASURED)
    assert throughput.rows == (
        ("unpruned", "2060.0", "0.75 (0.62 - 0.88)", "1.00x (1.00x - 1.00x)", "6.00 (5.00 - 7.00)"),
        ("0.25", "560.0", "2.00 (2.00 - 2.00)", "3.00x (2.50x - 3.50x)", "16.0 (16.0 - 16.0)"),
    )
    assert first.rows == (
        ("unpruned", "3.75 s (3.12 - 4.38 s)", "1.00x (1.00x - 1.00x)", "2.62 s", "4.88 s"),
        ("0.25", "1.25 s (1.25 - 1.25 s)", "3.00x (2.50x - 3.50x)", "875 ms", "1.62 s"),
    )


@pytest.mark.parametrize("name", ["0.25", "strategies/of-a-search-with-a-very-long-name-25.json"])
def test_tables_fit_a_terminal(name, capsys):
    longer = ServedRow(name, MEASURED.rows[1].rounds)
    for table in tables(ServingBenchmark(**{**vars(MEASURED), "rows": (MEASURED.unpruned, longer)})):
        print_table(table.title, table.columns, table.rows, table.caption, console=Console(width=80))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert name in printed


def test_the_file_holds_every_answer():
    held = json.loads(MEASURED.to_json())
    assert held["format"] == FORMAT
    assert held["workload"]["size"] == [1260, 1260]
    (answer, *_) = held["rows"][1]["rounds"][0]["answers"]
    assert answer == {"first_token": 0.5, "seconds": 1.0, "prompt_tokens": 560, "output_tokens": 8}
