"""One place where the command line turns errors into one line and an exit code."""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from vflowopt.errors import VFlowOptError

BAD_INPUT = 2
INTERRUPTED = 130

# Newer versions of Typer bring a copy of click, older ones use click's own: take the class from Typer itself.
_UsageError: Any = typer.BadParameter.__mro__[1]


class OneLineErrors(TyperGroup):
    """Runs commands; an error that the user can do something about becomes one line on standard error."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except VFlowOptError as error:
            fail(str(error))
        except _UsageError as error:
            fail(error.format_message(), hint=f"see {_path(error)} --help")
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            raise typer.Exit(INTERRUPTED) from None


def fail(message: str, hint: str = "") -> None:
    """Print one line on standard error and leave with exit code 2."""
    line = " ".join(message.split())
    print(f"vflowopt: error: {line}{f' ({hint})' if hint else ''}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(BAD_INPUT) from None


def _path(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "vflowopt"
