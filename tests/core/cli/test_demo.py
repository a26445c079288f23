"""The demo's table: figures, intervals, and its fit to a terminal of 80 columns."""

import io
import re

from rich.console import Console

from vflowopt.benchmark import Benchmark, BenchRow
from vflowopt.benchmark.timing import Spread, Timing
from vflowopt.cli.demo import print_summary
from vflowopt.cli.evaluate import UNPRUNED, Outcome


def measured(name, retention, flops, cache, language_model, whole):
    times = {"LM prefill": language_model, "end-to-end prefill": whole}
    spreads = {part: Timing(Spread.of([value]), Spread.of([value])) for part, value in times.items()}
    return BenchRow(name, retention, (966,), (1000,), flops, flops, cache, spreads)


OUTCOMES = [Outcome(UNPRUNED, 196, 200, 1.0, (677.2,)), Outcome("10 %", 184, 200, 0.1, (677.2, 114.0, 46.0, 43.0))]
BENCHMARK = Benchmark(
    "CPU", (measured(UNPRUNED, 1.0, 1290, 5662310, 0.5, 0.8), measured("10 %", 0.1, 100, 625868, 0.05, 0.25))
)


def printed(width=80):
    to = io.StringIO()
    print_summary("reference", OUTCOMES, BENCHMARK, Console(file=to, width=width))
    return to.getvalue()


def test_figures_of_a_row():
    row = next(line for line in printed().splitlines() if "10 %" in line)
    assert re.findall(r"[\d.]+", row) == ["10", "92.0", "87.4", "95.0", "611.2", "12.9", "10.0", "3.20"]


def test_the_unpruned_row_gains_nothing():
    row = next(line for line in printed().splitlines() if UNPRUNED in line and "against" not in line)
    assert re.findall(r"[\d.]+", row) == ["98.0", "95.0", "99.2", "5.4"]


def test_80_columns_split_no_word():
    assert max(map(len, printed().splitlines())) <= 80
    assert set(printed().replace("─", "").split()) == set(printed(width=300).replace("─", "").split())
