"""``vflowopt adapters``: what is installed, what of it can be used, and what is wrong with the rest."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vflowopt.cli.console import print_json, results, table
from vflowopt.cli.usability import obstacle
from vflowopt.plugins import Plugins, Registration, installed

NOTHING_USABLE = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("adapters")(adapters)


def adapters(
    check: Annotated[
        bool, typer.Option("--check", help="Import every adapter to be certain; takes as long as its framework.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List installed adapters, named models, components, and what is wrong with any plugin.

    Exit code 1 if plugins are installed, but no adapter of theirs can be used.
    """
    plugins = installed()
    obstacles = {entry: obstacle(plugins, entry, thorough=check) for entry in plugins.adapters}
    if as_json:
        print_json(describe(plugins, obstacles))
    else:
        _print(plugins, obstacles)
    if (plugins.adapters or plugins.failures) and all(obstacles.values()):
        raise typer.Exit(NOTHING_USABLE)


def describe(plugins: Plugins, obstacles: Mapping[Registration, str]) -> dict[str, Any]:
    """Everything as JSON values; ``obstacles`` says for each registration what is in its way, if anything."""
    return {
        "adapters": [
            {
                "name": entry.descriptor.name,
                "model_types": list(entry.descriptor.model_types),
                "plugin": entry.plugin,
                "distribution": entry.distribution,
                "version": entry.version,
                "place": str(entry.source.place),
                "summary": entry.descriptor.summary,
                "usable": not obstacles[entry],
                "problem": obstacles[entry] or None,
            }
            for entry in plugins.adapters
        ],
        "models": [
            {"name": model.name, "model_type": model.model_type, "summary": model.summary}
            for model in plugins.models.values()
        ],
        "components": {kind: sorted(known) for kind, known in sorted(plugins.components.items())},
        "conflicts": [
            {"kind": c.kind, "name": c.name, "claims": list(c.claims), "effect": c.effect} for c in plugins.conflicts
        ],
        "failures": [
            {"name": f.name, "distribution": f.distribution, "version": f.version, "stage": f.stage, "cause": f.cause}
            for f in plugins.failures
        ],
    }


def _print(plugins: Plugins, obstacles: Mapping[Registration, str]) -> None:
    console = results()
    rows = [
        (
            e.descriptor.name,
            ", ".join(e.descriptor.model_types),
            f"{e.distribution} {e.version}",
            f"no: {obstacles[e]}" if obstacles[e] else "yes",
            e.descriptor.summary,
        )
        for e in plugins.adapters
    ]
    caption = "" if rows else "No adapter is installed: pip install vflowopt-hf"
    console.print(_left(table("Adapters", ("name", "model types", "package", "usable", "for"), rows, caption)))
    if plugins.models:
        models = [(m.name, m.model_type, m.summary) for m in plugins.models.values()]
        console.print(_left(table("Named models", ("--model", "model type", "what it is"), models)))
    kinds = [(kind, ", ".join(sorted(known))) for kind, known in sorted(plugins.components.items())]
    console.print(_left(table("Components of strategies", ("kind", "names"), kinds)))
    if plugins.conflicts:
        claimed = [(f"{c.kind} {c.name}", "\n".join(c.claims), c.effect) for c in plugins.conflicts]
        console.print(_left(table("Conflicts", ("what", "claimed by", "what that means"), claimed)))
    if plugins.failures:
        failed = [(f.name, f"{f.distribution} {f.version}", f.stage, f.cause) for f in plugins.failures]
        console.print(_left(table("Plugins that failed", ("name", "package", "could not", "cause"), failed)))


def _left(drawn: Any) -> Any:
    for column in drawn.columns:
        column.justify = "left"
    return drawn
