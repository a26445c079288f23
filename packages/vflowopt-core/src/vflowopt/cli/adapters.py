"""``vflowopt adapters``: what is installed, what of it can be used, and what is wrong with the rest."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from vflowopt.cli.console import JsonOption, print_json, working
from vflowopt.cli.help import Command
from vflowopt.cli.tables import print_table
from vflowopt.discovery.known_models import verdicts
from vflowopt.errors import UnsupportedModelError
from vflowopt.plugins import Plugins, Registration, import_adapter, installed

NOTHING_USABLE = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("adapters", cls=Command)(adapters)


def adapters(
    check: Annotated[
        bool, typer.Option("--check", help="Import every adapter to be certain; takes as long as its framework.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="List every multimodal model type of transformers, and what it lacks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List installed adapters, named models, components, and what is wrong with any plugin.

    Exit code 1 if plugins are installed, but no adapter of theirs can be used.
    """
    plugins = installed()
    with working("looking at adapters"):
        obstacles = {entry: obstacle(plugins, entry, thorough=check) for entry in plugins.adapters}
    if as_json:
        known = {"known": [{"model_type": kind, **asdict(of)} for kind, of in verdicts().items()]} if every else {}
        print_json(describe(plugins, obstacles) | known)
    else:
        _print(plugins, obstacles)
        if every:
            rows = [(kind, of.status, of.nearest, of.told) for kind, of in verdicts().items()]
            caption = "Nearest is a supported type; docs/families.md says more."
            print_table("Model types of transformers", ("type", "status", "nearest", "what"), rows, caption, prose=True)
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
    rows = [
        (
            entry.descriptor.name,
            ", ".join(entry.descriptor.model_types),
            f"no: {obstacles[entry]}" if obstacles[entry] else "yes",
            entry.descriptor.summary,
        )
        for entry in plugins.adapters
    ]
    packages: dict[str, list[str]] = {}
    for entry in plugins.adapters:
        packages.setdefault(f"{entry.distribution} {entry.version}", []).append(entry.descriptor.name)
    told = "; ".join(f"{package}: {', '.join(names)}" for package, names in packages.items())
    caption = f"From {told}." if rows else "No adapter is installed: pip install vflowopt-hf"
    print_table("Adapters", ("name", "model types", "usable", "for"), rows, caption, prose=True)
    if plugins.models:
        models = [(model.name, model.model_type, model.summary) for model in plugins.models.values()]
        print_table("Named models", ("--model", "model type", "what it is"), models, prose=True)
    kinds = [(kind, ", ".join(sorted(known))) for kind, known in sorted(plugins.components.items())]
    print_table("Components of strategies", ("kind", "names"), kinds, prose=True)
    if plugins.conflicts:
        claimed = [(f"{c.kind} {c.name}", "; ".join(c.claims), c.effect) for c in plugins.conflicts]
        print_table("Conflicts", ("what", "claimed by", "what that means"), claimed, prose=True)
    if plugins.failures:
        failed = [(f.name, f"{f.distribution} {f.version}", f.stage, f.cause) for f in plugins.failures]
        print_table("Plugins that failed", ("name", "package", "could not", "cause"), failed, prose=True)


def obstacle(plugins: Plugins, entry: Registration, *, thorough: bool = False) -> str:
    """Why an adapter cannot be used; empty if nothing is known to be in the way.

    Args:
        plugins: all that is installed.
        entry: the adapter.
        thorough: import it, too: certain, but takes as long as its framework does.
    """
    if all(len(plugins.claims(kind)) > 1 for kind in entry.descriptor.model_types):
        return "other adapters claim the same model types"
    missing = _missing_requirements(entry)
    if missing:
        return f"not installed: {', '.join(missing)}"
    module = entry.descriptor.target.partition(":")[0]
    try:
        if find_spec(module) is None:
            return f"there is no module {module}"
    except (Exception, SystemExit) as error:  # it imports the packages around the module: a third party's code
        return f"{module} cannot be imported: {type(error).__name__}: {error}"
    if thorough:
        try:
            import_adapter(entry)
        except UnsupportedModelError as error:
            return str(error)
    return ""


def _missing_requirements(entry: Registration) -> list[str]:
    """Names of what its distribution requires, optional and conditional requirements aside, and is not there."""
    distribution = entry.source.point.dist
    stated = (distribution.requires if distribution else None) or []
    names = [re.match(r"[\w.-]+", requirement) for requirement in stated if ";" not in requirement]
    return [name[0] for name in names if name and not _is_installed(name[0])]


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
