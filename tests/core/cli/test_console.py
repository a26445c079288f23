"""What is said while something takes its time: on a terminal at once, elsewhere nothing."""

import io

import pytest
from rich.console import Console

from vflowopt.cli import console


@pytest.fixture(params=[True, False])
def screen(request, monkeypatch):
    """Standard error, a terminal or none."""
    made = Console(file=io.StringIO(), force_terminal=request.param, width=80)
    monkeypatch.setattr(console, "notes", lambda: made)
    return made


def test_what_loads_is_said_before_it_has_loaded(screen):
    with console.working("loading reference"):
        during = screen.file.getvalue()
    assert ("loading reference" in during) is screen.is_terminal
    assert bool(screen.file.getvalue()) is screen.is_terminal


def test_bars_are_for_terminals(screen):
    assert list(console.tracked([1, 2], "encoding")) == [1, 2]
    with console.steps() as bar:
        bar.advance(bar.add_task("measuring", total=1))
    assert ("encoding" in screen.file.getvalue()) is screen.is_terminal
    assert bool(screen.file.getvalue()) is screen.is_terminal
