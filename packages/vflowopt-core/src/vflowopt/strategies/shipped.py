"""Presets: published strategies that come with vflowopt, by name."""

import difflib
from importlib import resources

from vflowopt.errors import StrategyError, shown

PRESET = "preset:"
"""May stand before the name of a preset."""

_PRESETS = resources.files("vflowopt.strategies") / "presets"


def preset_names() -> list[str]:
    """Names that :meth:`vflowopt.Strategy.preset` knows."""
    return sorted(
        f"{family.name}/{entry.name.removesuffix('.json')}"
        for family in _PRESETS.iterdir()
        if family.is_dir()
        for entry in family.iterdir()
        if entry.name.endswith(".json")
    )


def is_preset(name: object) -> bool:
    """Whether a preset has this name, with or without ``preset:`` before it."""
    return isinstance(name, str) and name.removeprefix(PRESET) in preset_names()


def preset_text(name: str) -> str:
    """A preset's file.

    Raises:
        StrategyError: there is none of that name; lists those that exist.
    """
    if name not in preset_names():
        raise StrategyError(f"no preset is called {shown(name)}; {nearest_preset(name)}")
    return (_PRESETS / f"{name}.json").read_text(encoding="utf-8")


def nearest_preset(name: str) -> str:
    """For messages: the preset that may have been meant, and all that there are."""
    near = difflib.get_close_matches(str(name), preset_names(), n=1, cutoff=0.4)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}there are: {', '.join(preset_names())}"
