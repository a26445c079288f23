"""Whether an installed adapter can be used, as far as that can be told without importing a framework."""

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from vflowopt.errors import UnsupportedModelError
from vflowopt.plugins import Plugins, Registration, import_adapter


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
