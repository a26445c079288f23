"""The help of every command: no word is broken or cut, flags take no value, examples can be pasted."""

import io
import re
import shlex

import pytest
import typer
from rich.console import Console

from vflowopt.cli import app
from vflowopt.cli import help as shown_help
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.shipped import preset_names

GROUP = typer.main.get_command(app)
COMMANDS = {"": GROUP, **GROUP.commands}


def printed(name, width, monkeypatch):
    to = io.StringIO()
    monkeypatch.setattr(shown_help, "results", lambda: Console(file=to, width=width, markup=False))
    command = COMMANDS[name]
    context = command.make_context("vflowopt", [], resilient_parsing=True)
    command.get_help(context)
    return to.getvalue()


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_is_broken_or_cut(name, width, monkeypatch):
    shown = printed(name, width, monkeypatch)
    assert "…" not in shown
    assert "<" not in shown
    words = set(shown.split())
    command = COMMANDS[name]
    texts = [command.help, command.epilog or "", *(param.help or "" for param in command.params)]
    assert {word for text in texts for word in re.sub(r"\[/?b\]", "", text).split()} <= words
    assert {name for param in command.params if not param.hidden for name in param.opts} <= {
        word.rstrip(",") for word in words
    }
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("name", [name for name in COMMANDS if name])
def test_every_option_is_told(name, monkeypatch):
    shown = printed(name, 80, monkeypatch)
    for param in COMMANDS[name].params:
        if param.hidden:
            continue
        (line,) = re.findall(rf"^  (?:-\w, )?{max(param.opts, key=len)}\b.*", shown, re.MULTILINE)
        takes = re.match(r"  (?:-\w, )?--[\w-]+ ([A-Z][A-Z=-]*)(?:  |$)", line)
        assert bool(takes) is not param.is_flag, line
    assert ("[required]" in shown) is any(param.required for param in COMMANDS[name].params)


@pytest.mark.parametrize("width", [80, 60])
def test_examples_can_be_pasted(width, monkeypatch):
    for name, command in COMMANDS.items():
        examples = [text for text in (command.epilog or "").split("\n\n") if text.startswith("vflowopt ") and name]
        pasted = printed(name, width, monkeypatch).replace("\\\n", "")
        told = [shlex.split(line) for line in pasted.splitlines() if line.startswith("vflowopt ")]
        assert all(shlex.split(example) in told for example in examples)


def test_strategies_that_the_help_names_are_strategies(monkeypatch):
    shown = " ".join(printed("run", 80, monkeypatch).split())
    named = re.findall(r"\b[a-z-]+@[\w.,=/-]+\d", shown)
    assert len(named) >= 5
    for text in named:
        read_strategy(text)
    assert set(re.findall(r"preset:([\w/.-]+\d)", shown)) <= set(preset_names())
