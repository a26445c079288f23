"""``vflowopt adapters``: what is installed, and what failed to load."""

from typing import Annotated, Any

import typer

from vflowopt.cli.console import print_json, results, table
from vflowopt.plugins import Plugins, installed


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("adapters")(adapters)


def adapters(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List installed adapters, named models, components, and plugins that failed to load."""
    plugins = installed()
    if as_json:
        print_json(describe(plugins))
        return
    console = results()
    rows = [
        (e.descriptor.name, ", ".join(e.descriptor.model_types), f"{e.distribution} {e.version}", e.descriptor.summary)
        for e in plugins.adapters
    ]
    caption = "" if rows else "No adapter is installed: pip install vflowopt-hf"
    console.print(_left(table("Adapters", ("name", "model types", "package", "for"), rows, caption)))
    if plugins.models:
        models = [(m.name, m.model_type, m.summary) for m in plugins.models.values()]
        console.print(_left(table("Named models", ("--model", "model type", "what it is"), models)))
    kinds = [(kind, ", ".join(sorted(known))) for kind, known in sorted(plugins.components.items())]
    console.print(_left(table("Components of strategies", ("kind", "names"), kinds)))
    if plugins.failures:
        failed = [(f.name, f"{f.distribution} {f.version}", f.stage, f.cause) for f in plugins.failures]
        console.print(_left(table("Plugins that failed", ("name", "package", "could not", "cause"), failed)))


def describe(plugins: Plugins) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "adapters": [
            {
                "name": entry.descriptor.name,
                "model_types": list(entry.descriptor.model_types),
                "plugin": entry.plugin,
                "distribution": entry.distribution,
                "version": entry.version,
                "summary": entry.descriptor.summary,
            }
            for entry in plugins.adapters
        ],
        "models": [
            {"name": model.name, "model_type": model.model_type, "summary": model.summary}
            for model in plugins.models.values()
        ],
        "components": {kind: sorted(known) for kind, known in sorted(plugins.components.items())},
        "failures": [
            {"name": f.name, "distribution": f.distribution, "version": f.version, "stage": f.stage, "cause": f.cause}
            for f in plugins.failures
        ],
    }


def _left(drawn: Any) -> Any:
    for column in drawn.columns:
        column.justify = "left"
    return drawn
