"""Which model was taught what; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .dense.task import Dense
from .names import NAMES
from .scenes import Scenes
from .task import Task

TASKS: Final[Mapping[str, Task]] = MappingProxyType({name: Scenes() for name in NAMES} | {"reference-dense": Dense()})
"""By the name of the reference model."""
