"""The search's journal: one JSON line per evaluation, on disk before the next evaluation begins.

The first line says which search it is. A process may be killed at any byte: only a line that ends in a newline
counts, and what comes after the last newline is dropped. Emukit's own state is not kept; proposals are a pure
function of these lines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vflowopt.errors import JournalError
from vflowopt.files.durable import append_durably
from vflowopt.search.result import HistoryEntry

FORMAT = "vflowopt/journal/1"

EXPLANATIONS = {
    "fingerprint": "another model or other samples",
    "num_layers": "another model",
    "floor": "samples of other sizes",
    "max_cell": "samples of other sizes",
    "budget": "another budget",
    "stages": "other pruning stages",
    "variables": "other variables",
    "fixed": "other fixed variables",
    "seed": "another seed",
    "initial": "another size of the initial design",
    "starts": "other starting strategies",
    "objective": "another objective",
    "method": "another search method",
}


@dataclass
class Journal:
    """An append-only journal file.

    Attributes:
        path: the file; :meth:`open` makes sure that it exists.
        entries: evaluations that were found in it.
        notes: what happened to it on opening.
    """

    path: Path
    entries: list[HistoryEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path, settings: Mapping[str, Any]) -> "Journal":
        """Open the journal of the search with these settings, or begin it.

        Args:
            path: the file; its folder must exist.
            settings: JSON values that identify the search.

        Raises:
            JournalError: the file is not a journal (it is left alone), belongs to another search (names what
                differs), is damaged before its last line, or cannot be read or written.
        """
        journal = cls(Path(path))
        header = _line({"format": FORMAT, **settings})
        content = check_journal(path)
        complete, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
        if not complete:
            if not header.startswith(torn):
                raise JournalError(_refusal(path))
            journal._write(header, truncate_to=0)
            return journal
        first, *lines = complete.splitlines()
        _compare(path, json.loads(first), json.loads(header))
        journal.entries = [_entry(path, number, line) for number, line in enumerate(lines)]
        if torn:
            journal._write(b"", truncate_to=len(complete))
            journal.notes.append(
                f"the journal {str(path)!r} ended in the middle of a line; that evaluation was dropped and is repeated"
            )
        return journal

    def append(self, entry: HistoryEntry) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        self._write(_line(entry.to_json()))

    def _write(self, data: bytes, truncate_to: int | None = None) -> None:
        try:
            append_durably(self.path, data, truncate_to)
        except OSError as error:
            raise JournalError(f"cannot write the journal {str(self.path)!r}: {error}") from error


def check_journal(path: str | Path) -> bytes:
    """Content of a file that is a journal, or may become one; empty if there is none.

    Raises:
        JournalError: it is something else, its folder does not exist, or it cannot be read.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise JournalError(f"the journal {str(path)!r} lies in a folder that does not exist; create the folder first")
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise JournalError(f"cannot read the journal {str(path)!r}: {error}") from error
    first, newline, _ = content.partition(b"\n")
    if newline:
        try:
            is_journal = json.loads(first)["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            is_journal = False
        if not is_journal:
            raise JournalError(_refusal(path))
    return content


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _refusal(path: str | Path) -> str:
    return f"{str(path)!r} exists and is not a {FORMAT} journal; it was left alone: name another file"


def _compare(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name in (*expected, *found):
        if name not in found or name not in expected or found[name] != expected[name]:
            raise JournalError(
                f"the journal {str(path)!r} belongs to {EXPLANATIONS.get(name, 'another search')}: its {name} is "
                f"{found.get(name)!r}, this search's is {expected.get(name)!r}; name another journal to start anew"
            )


def _entry(path: str | Path, number: int, line: bytes) -> HistoryEntry:
    try:
        entry = HistoryEntry.from_json(json.loads(line))
        if entry.index != number:
            raise ValueError(f"evaluation {entry.index} stands where {number} should; did two searches write to it?")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"line {number + 2} of the journal {str(path)!r} is damaged: {error}") from error
    return entry
