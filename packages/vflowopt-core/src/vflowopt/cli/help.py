"""``--help``: what a command does, its options and examples, in lines that break between words only."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text
from typer.core import TyperCommand

from vflowopt.cli.console import results, wrapped

NAMES = 30
"""Widest column of names; the help of an option with a longer one begins on the next line."""


class Command(TyperCommand):
    """A command with this help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Print it."""
        print_help(self, ctx)


def print_help(command: Any, ctx: Any) -> None:
    """Print the help of a command, or of the group of all commands."""
    console = results()
    for line in _lines(command, ctx, console.width):
        console.print(line, soft_wrap=True, highlight=False)


def _lines(command: Any, ctx: Any, width: int) -> Iterator[Text]:
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    yield from wrapped(Text.assemble(("Usage: ", "bold"), usage), width)
    yield from _paragraphs(command.help or "", width)
    options = [param for param in command.get_params(ctx) if not getattr(param, "hidden", False)]
    options.sort(key=lambda option: not option.required)
    yield from _entries("Options", [(_names(option), _told(option)) for option in options], width)
    commands = getattr(command, "commands", {})
    briefs = {name: _text((one.help or "").partition("\n\n")[0]) for name, one in commands.items()}
    yield from _entries("Commands", [(Text(name, "cyan"), brief) for name, brief in briefs.items()], width)
    yield from _paragraphs(command.epilog or "", width)


def _names(option: Any) -> Text:
    """``-m, --model MODEL``; a flag takes no value."""
    names = Text(", ".join(sorted(option.opts, key=len)), "cyan")
    if getattr(option, "is_flag", False):
        return names
    return Text.assemble(names, " ", (option.metavar or option.name.upper().replace("_", "-"), "yellow"))


def _told(option: Any) -> Text:
    """What an option means, and its default."""
    text = _text(option.help or "")
    if option.required:
        return Text.assemble(text, (" [required]", "red"))
    if isinstance(option.default, str | int | float | Path) and not isinstance(option.default, bool):
        return Text.assemble(text, (f" [default: {option.default}]", "dim"))
    return text


def _entries(title: str, entries: list[tuple[Text, Text]], width: int) -> Iterator[Text]:
    """Names, and beside each what it means, or below it where there is not enough room."""
    if not entries:
        return
    yield from (Text(), Text(title, "bold"))
    indent = min(NAMES, max(name.cell_len for name, _ in entries)) + 4
    for name, told in entries:
        room = width - indent
        longest = max((len(word) for word in told.plain.split()), default=0)
        if name.cell_len + 4 > indent or longest > room:
            yield Text.assemble("  ", name)
            left = indent if longest <= room else 6
            yield from (Text.assemble(" " * left, line) for line in wrapped(told, width - left))
            continue
        lines = wrapped(told, room)
        yield Text.assemble("  ", name, " " * (indent - 2 - name.cell_len), lines[0])
        yield from (Text.assemble(" " * indent, line) for line in lines[1:])


def _paragraphs(text: str, width: int) -> Iterator[Text]:
    """Paragraphs, each after a blank line."""
    for paragraph in filter(None, inspect.cleandoc(text).split("\n\n")):
        yield Text()
        yield from _example(paragraph, width) if paragraph.startswith("vflowopt ") else wrapped(_text(paragraph), width)


def _example(command: str, width: int) -> Iterator[Text]:
    """A command that can be pasted: in several lines only between its options."""
    line, *options = re.split(r" (?=-)", command)
    for option in options:
        if len(line) + len(option) + len("  \\") > width:
            yield Text(f"{line} \\")
            line = f"    {option}"
        else:
            line = f"{line} {option}"
    yield Text(line)


def _text(markup: str) -> Text:
    return Text.from_markup(" ".join(inspect.cleandoc(markup).split()))
