"""Finished cells on disk: one line each, there before the next cell begins.

The first line says what all cells depend on, a line per model which weights it has; what a kill or an editor
can do to the file: see :mod:`vflowopt.files.record`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from vflowopt.compare.cells import Cell, Result
from vflowopt.errors import JournalError, shown
from vflowopt.files.record import RecordFile, RecordKind

FORMAT = "vflowopt/compare/2"

_KIND = RecordKind(FORMAT, "file of cells", "choose another --out")


@dataclass
class Store:
    """Results that this process has open; leave the ``with`` block to let others have them.

    Attributes:
        record: their file.
        settings: JSON values on which all cells depend.
        results: by cell.
        models: the identity of each model's weights.
    """

    record: RecordFile
    settings: Mapping[str, Any]
    results: dict[Cell, Result] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], models: Mapping[str, str]) -> "Store":
        """Open the file of a comparison with these settings, or begin it.

        Args:
            path: the file; its folder must exist.
            settings: JSON values on which all cells depend.
            models: identity of each model's weights by label.

        Raises:
            JournalError: the file holds a comparison with other settings or weights (names what differs), something
                else, was edited or damaged before its last line, is in use by another process, or cannot be read or
                written.
        """

        def compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
            _compare(path, found["settings"], expected["settings"])

        store = cls(RecordFile.open(path, _KIND, {"settings": settings}, compare), settings)
        try:
            for number, row in enumerate(store.record.rows, start=2):
                store._read(number, row)
            for label, identity in models.items():
                if store.models.get(label, identity) != identity:
                    raise JournalError(
                        f"{str(path)!r} holds results of a model {label!r} with other weights; choose another --out"
                    )
            for label, identity in models.items():
                if label not in store.models:
                    store.models[label] = identity
                    store.record.append({"model": label, "identity": identity})
        except BaseException:
            store.record.close()
            raise
        return store

    @property
    def path(self) -> Path:
        """The file."""
        return self.record.path

    @property
    def notes(self) -> list[str]:
        """What happened to the file on opening."""
        return self.record.notes

    def add(self, result: Result) -> None:
        """Add a finished cell; it is on disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        self.record.append({"result": result.to_json()})
        self.results[result.cell] = result

    def identity(self, model: str) -> str:
        """Identifies the settings together with a model's weights, for what is kept besides the cells."""
        line = json.dumps({"settings": self.settings, "model": model, "identity": self.models[model]})
        return hashlib.sha256(line.encode()).hexdigest()[:12]

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.record.close()

    def _read(self, number: int, row: Mapping[str, Any]) -> None:
        try:
            if "model" in row:
                self.models[row["model"]] = row["identity"]
                return
            result = Result.from_json(row["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"line {number} of {str(self.path)!r} is of another version: {error}; choose another --out"
            ) from error
        self.results[result.cell] = result


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in (*expected, *found):
        if name not in found or name not in expected or found[name] != expected[name]:
            raise JournalError(
                f"{str(path)!r} holds a comparison with other settings: its {name} is {shown(found.get(name))}, now it "
                f"is {shown(expected.get(name))}; choose another --out"
            )
