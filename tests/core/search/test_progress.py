"""The progress bar."""

import io

import pytest
from rich.console import Console

from core.search.synthetic import Synthetic
from vflowopt.search import RichProgress, search
from vflowopt.search.progress import watching


def test_the_bar_shows_budget_count_best_and_time_left():
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with RichProgress(screen) as bar:
        result = search(Synthetic(), 0.25, iterations=0, initial=3, progress=bar)
    shown = screen.file.getvalue()
    for part in ("25.0 %", "3/3", f"{result.best.score:.4f}", "left 0:00:00"):
        assert part in shown


def test_a_bar_starts_itself(capsys):
    screen = Console(file=io.StringIO(), width=120)
    bar = RichProgress(screen)
    search(Synthetic(), 0.25, iterations=0, initial=2, progress=bar)
    bar.__exit__()
    assert "2/2" in screen.file.getvalue()


def test_true_draws_on_standard_error_and_none_draws_nothing(capsys):
    search(Synthetic(), 0.25, iterations=0, initial=2, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    search(Synthetic(), 0.25, iterations=0, initial=2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("nothing", [None, False])
def test_nothing_is_silent(nothing, capsys):
    with watching(nothing) as report:
        assert report(None) is None
