"""Constraints that hold every dependency of the packages at its lower bound: what ``make test-oldest`` runs with."""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = Path(__file__).parents[1] / "packages"


def lower_bounds(packages: Path) -> dict[str, Version]:
    """The highest lower bound of each dependency, which together they can be installed with."""
    bounds: dict[str, Version] = {}
    for metadata in packages.glob("*/pyproject.toml"):
        project = tomllib.loads(metadata.read_text(encoding="utf-8"))["project"]
        for texts in (project["dependencies"], *project.get("optional-dependencies", {}).values()):
            for requirement in map(Requirement, texts):
                for bound in requirement.specifier:
                    if bound.operator == ">=":
                        version = Version(bound.version)
                        bounds[requirement.name] = max(version, bounds.get(requirement.name, version))
    return bounds


if __name__ == "__main__":
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(lower_bounds(PACKAGES).items()))
