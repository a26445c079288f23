"""The Typer application and its commands."""

from typing import Annotated, Any

import typer

from vflowopt import __version__
from vflowopt.cli import ablate, adapters, bench, calibrate, compare, demo, evaluate, fit, flow, optimize, run, show
from vflowopt.cli.failures import OneLineErrors
from vflowopt.cli.help import print_help


class Commands(OneLineErrors):
    """All commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Print the list."""
        print_help(self, ctx)


app = typer.Typer(
    name="vflowopt",
    cls=Commands,
    help="Training-free visual token pruning for large multimodal models.",
    epilog="Start with `vflowopt demo`: it searches a strategy for a small shipped model and shows what it gains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vflowopt {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Training-free visual token pruning for large multimodal models."""


for module in (demo, optimize, fit, evaluate, compare, ablate, run, show, flow, bench, calibrate, adapters):
    module.register(app)
