"""One place where the command line turns errors into one line and an exit code."""

import re
import sys
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from vflowopt.errors import VFlowOptError
from vflowopt.values import explained

BAD_INPUT = 2
INTERRUPTED = 130

# Newer versions of Typer bring a copy of click, older ones use click's own: take the class from Typer itself.
_UsageError: Any = typer.BadParameter.__mro__[1]


class OneLineErrors(TyperGroup):
    """Runs commands; an error that the user can do something about becomes one line on standard error."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read what stands before the command."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # nothing was typed at all: help is shown
                raise
            fail(_usage(error), hint=f"see {_path(error)} --help")

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        if hasattr(sys.stdout, "reconfigure"):  # a path may hold what the terminal's encoding does not
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except VFlowOptError as error:
            fail(str(error))
        except _UsageError as error:
            fail(_usage(error), hint=f"see {_path(error)} --help")
        except BrokenPipeError:  # whoever reads the results has enough: Typer ends quietly
            raise
        except OSError as error:
            where = "" if error.filename is None else f"{str(error.filename)!r}: "
            fail(f"{where}{error.strerror or error}; make room, or name another place")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            raise typer.Exit(INTERRUPTED) from None


def fail(message: str, hint: str = "") -> None:
    """Print one line on standard error and leave with exit code 2; very long words lose their middle."""
    line = re.sub(r"\S{101,}", lambda found: f"{found[0][:60]}...{found[0][-30:]}", " ".join(message.split()))
    print(f"vflowopt: error: {line}{f' ({hint})' if hint else ''}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(BAD_INPUT) from None


def _usage(error: Any) -> str:
    """What is wrong with an option, its value included, and what the option takes."""
    parameter, cause = getattr(error, "param", None), error.__cause__
    message = str(error.format_message()).rstrip(".")
    if parameter is None:
        return message
    if isinstance(cause, ValidationError):  # of newer versions of Typer, whose own message leaves out the value
        message = f"{max(parameter.opts, key=len)}: {explained(cause)}"
    told = re.sub(r"\[/?\w+\]", "", getattr(parameter, "help", None) or "")
    told = re.split(r"[.:;](?:\s|$)", told)[0]  # its first words; --help has all of them
    return f"{message}; it takes: {told}" if told else message


def _path(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "vflowopt"
