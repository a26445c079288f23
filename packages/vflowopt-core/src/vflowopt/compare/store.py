"""Finished cells on disk: one JSON line each, there before the next cell begins.

The first line says what all cells depend on, a line per model which weights it has. A process may be killed at any
byte: only a line that ends in a newline counts.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vflowopt.compare.cells import Cell, Result
from vflowopt.errors import JournalError
from vflowopt.files.durable import append_durably

FORMAT = "vflowopt/compare/1"


@dataclass
class Store:
    """An append-only file of results.

    Attributes:
        path: the file.
        settings: JSON values on which all cells depend.
        results: by cell.
        models: the identity of each model's weights.
        notes: what happened to the file on opening.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: dict[Cell, Result] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], models: Mapping[str, str]) -> "Store":
        """Open the file of a comparison with these settings, or begin it.

        Args:
            path: the file; its folder must exist.
            settings: JSON values on which all cells depend.
            models: identity of each model's weights by label.

        Raises:
            JournalError: the file holds a comparison with other settings or weights (names what differs), something
                else, or is damaged before its last line; or it cannot be read or written.
        """
        store = cls(path, settings)
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise JournalError(f"cannot read {str(path)!r}: {error}") from error
        complete, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
        lines = complete.splitlines()
        header = {"format": FORMAT, "settings": settings}
        if lines:
            store._check_header(lines[0], header)
        for number, line in enumerate(lines[1:], start=2):
            store._read(number, line)
        for label, identity in models.items():
            if store.models.get(label, identity) != identity:
                raise JournalError(
                    f"{str(path)!r} holds results of a model {label!r} with other weights; choose another --out"
                )
        if torn:
            if not lines and not _line(header).startswith(torn):
                raise JournalError(_refusal(path))
            store._write(b"", truncate_to=len(complete))
            store.notes.append(f"{str(path)!r} ended in the middle of a line; that cell is done again")
        if not lines:
            store._write(_line(header))
        for label, identity in models.items():
            if label not in store.models:
                store.models[label] = identity
                store._write(_line({"model": label, "identity": identity}))
        return store

    def add(self, result: Result) -> None:
        """Add a finished cell; it is on disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        self._write(_line({"result": result.to_json()}))
        self.results[result.cell] = result

    def identity(self, model: str) -> str:
        """Identifies the settings together with a model's weights, for what is kept besides the cells."""
        line = _line({"settings": self.settings, "model": model, "identity": self.models[model]})
        return hashlib.sha256(line).hexdigest()[:12]

    def _check_header(self, line: bytes, expected: Mapping[str, Any]) -> None:
        try:
            found = json.loads(line)
            settings = dict(found["settings"]) if found["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError):
            settings = None
        if settings is None:
            raise JournalError(_refusal(self.path))
        wanted = json.loads(_line(expected))["settings"]
        for name in (*wanted, *settings):
            if name not in settings or name not in wanted or settings[name] != wanted[name]:
                raise JournalError(
                    f"{str(self.path)!r} holds a comparison with other settings: its {name} is {settings.get(name)!r}, "
                    f"now it is {wanted.get(name)!r}; choose another --out"
                )

    def _read(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if "model" in entry:
                self.models[entry["model"]] = entry["identity"]
                return
            result = Result.from_json(entry["result"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise JournalError(f"line {number} of {str(self.path)!r} is damaged: {error}") from error
        self.results[result.cell] = result

    def _write(self, data: bytes, truncate_to: int | None = None) -> None:
        try:
            append_durably(self.path, data, truncate_to)
        except OSError as error:
            raise JournalError(f"cannot write {str(self.path)!r}: {error}") from error


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _refusal(path: Path) -> str:
    return f"{str(path)!r} exists and is not a {FORMAT} file; it was left alone: choose another --out"
