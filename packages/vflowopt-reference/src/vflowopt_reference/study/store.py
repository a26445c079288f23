"""Figures of a study on disk: written after every step, read back by the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vflowopt.errors import InputError

from ..names import path


class Store:
    """A JSON file of figures by key.

    Args:
        file: created with the first figure.
        settings: what the figures depend on.

    Raises:
        InputError: the file holds figures of other settings, or is no such file.
    """

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self._file = file
        self._data: dict[str, Any] = {"settings": settings, "figures": {}}
        if file.exists():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                if found["settings"] != settings:
                    raise InputError(f"{str(file)!r} holds a study with other settings; choose another --out")
            except (ValueError, KeyError, TypeError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{str(file)!r} is not a study's file: {error}") from error
            self._data = found

    @property
    def figures(self) -> dict[str, Any]:
        """Everything so far."""
        figures: dict[str, Any] = self._data["figures"]
        return figures

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The figure of a key: read back, or made and written."""
        if key not in self.figures:
            self.figures[key] = make()
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._data, indent=1) + "\n", encoding="utf-8")
            temporary.replace(self._file)
        return self.figures[key]


def fingerprint(name: str = "reference") -> str:
    """Of the weights of a reference model: SHA-256 as hexadecimal digits."""
    return hashlib.sha256((path(name) / "model.safetensors").read_bytes()).hexdigest()
