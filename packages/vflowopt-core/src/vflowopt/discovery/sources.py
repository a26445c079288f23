"""Which distributions bring plugins, where they lie, and which of them are installed more than once.

The standard library's ``entry_points()`` hides all but the first copy of a distribution, and raises if the metadata of
any distribution at all is damaged. Here each distribution is read on its own.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint
from importlib.util import find_spec
from pathlib import Path

GROUP = "vflowopt"


@dataclass(frozen=True)
class Source:
    """An entry point of an installed distribution.

    Attributes:
        point: the entry point; its name is the plugin's name.
        distribution: the distribution's name.
        version: its version.
        place: the directory that it is installed in.
    """

    point: EntryPoint
    distribution: str
    version: str
    place: Path

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} in {self.place}"


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be used: where from, at which step, and why."""

    name: str
    distribution: str
    version: str
    stage: str
    cause: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version} failed to {self.stage}: {self.cause}"


@dataclass(frozen=True)
class Conflict:
    """Something that more than one installed plugin lays claim to.

    Attributes:
        kind: ``"distribution"`` (installed more than once), ``"plugin name"`` or ``"model type"``.
        name: what is claimed.
        claims: who claims it, with version and place.
        effect: what that means, and what to do about it.
    """

    kind: str
    name: str
    claims: tuple[str, ...]
    effect: str


def read_sources(found: Iterable[Distribution]) -> tuple[list[list[Source]], list[PluginFailure]]:
    """Entry points of the group ``vflowopt``.

    Returns:
        For each entry point its copies in order of ``sys.path``, the first of which is used: one unless its
        distribution is installed more than once. And the distributions whose metadata cannot be read.
    """
    copies: dict[tuple[str, str], list[Source]] = {}
    failures: list[PluginFailure] = []
    for distribution in found:
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            for source in _sources(distribution):
                key = (re.sub(r"[-_.]+", "-", source.distribution).lower(), source.point.name)
                copies.setdefault(key, []).append(source)
        except Exception as error:  # metadata can be damaged in any way
            place = Path(str(distribution.locate_file(""))).resolve()
            cause = f"{type(error).__name__}: {error}"
            failures.append(PluginFailure("?", f"a distribution in {place}", "?", "read its metadata", cause))
    return [copies[key] for key in sorted(copies)], failures


def _sources(distribution: Distribution) -> Iterator[Source]:
    place = Path(str(distribution.locate_file(""))).resolve()
    for point in distribution.entry_points.select(group=GROUP):
        yield Source(point, distribution.metadata["Name"], distribution.version, place)


def installed_twice(copies: list[Source]) -> Conflict | None:
    """The conflict between copies of one distribution; ``None`` if there is nothing to tell.

    Copies are one and the same if they state one version and Python finds their code in one place only: a directory
    that is twice on ``sys.path``, or the metadata that an editable install leaves both in its source tree and in
    ``site-packages``. Otherwise what is imported may not be what the metadata says.
    """
    first = copies[0]
    distinct = {(copy.version, copy.place): copy for copy in copies}
    if len(distinct) == 1:
        return None
    package = first.point.module.partition(".")[0]
    if len({copy.version for copy in copies}) == 1 and len(_origins(package)) <= 1:
        return None
    spec = find_spec(package)
    origin = spec.origin if spec and spec.origin else "nowhere"
    return Conflict(
        kind="distribution",
        name=first.distribution,
        claims=tuple(map(str, distinct.values())),
        effect=f"{first.version} is taken, and {package} is imported from {origin}: "
        f"pip uninstall {first.distribution} until no copy is left, then install it once",
    )


def _origins(package: str) -> set[Path]:
    """Files from which a package could be imported, on the whole of ``sys.path``."""
    specs = [PathFinder.find_spec(package, [entry]) for entry in sys.path]
    return {Path(spec.origin).resolve() for spec in (find_spec(package), *specs) if spec and spec.origin}
