"""The search's journal: one line per evaluation or heat of a race, on disk before the next one begins.

The first line says which search it is; what a kill or an editor can do to the file: see :mod:`vflowopt.files.record`.
Emukit's own state is not kept; proposals are a pure function of these lines.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from vflowopt.errors import JournalError, shown
from vflowopt.files.record import RecordFile, RecordKind, check_record
from vflowopt.search.race import Heat
from vflowopt.search.result import HistoryEntry

FORMAT = "vflowopt/journal/3"

_KIND = RecordKind(FORMAT, "journal", "name another journal")

EXPLANATIONS = {
    "fingerprint": "another model or other samples",
    "num_layers": "another model",
    "max_cell": "samples of other sizes",
    "budgets": "other budgets",
    "fresh": "another number of fresh samples",
    "stages": "other pruning stages",
    "variables": "other variables",
    "fixed": "other fixed variables",
    "seed": "another seed",
    "initial": "another size of the initial design",
    "starts": "other starting strategies",
    "objective": "another objective",
    "method": "another search method",
}


class OtherSearchError(JournalError):
    """The journal is sound, but of another search."""


@dataclass(frozen=True)
class JournalBeside:
    """Where a search has its journal if nobody names one: beside the file that it is to write.

    Attributes:
        out: that file.
    """

    out: Path

    def path(self, number: int = 1) -> Path:
        """The first, or a later one, for a search that differs from those before: ``ov-25.journal-2.jsonl``."""
        return self.out.with_name(f"{self.out.stem}.journal{'' if number == 1 else f'-{number}'}.jsonl")


Place: TypeAlias = str | Path | JournalBeside
"""The file of a journal, or where to look for it."""


@dataclass
class Journal:
    """A journal that this process has open; leave the ``with`` block to let others have it.

    Attributes:
        record: its file.
        entries: evaluations that were found in it.
        heats: evaluations on fresh samples, likewise.
    """

    record: RecordFile
    entries: list[HistoryEntry] = field(default_factory=list)
    heats: list[Heat] = field(default_factory=list)

    @classmethod
    def open(cls, place: Place, settings: Mapping[str, Any]) -> "Journal":
        """Open the journal of the search with these settings, or begin it.

        Args:
            place: the file, whose folder must exist; or where to look for it: a journal of another search is passed by.
            settings: JSON values that identify the search.

        Raises:
            JournalError: the file is not a journal (it is left alone), belongs to another search (names what
                differs), was edited or damaged before its last line, is in use by another process, or cannot be read
                or written.
        """
        if not isinstance(place, JournalBeside):
            return cls._open(Path(place), settings)
        for number in count(1):
            with suppress(OtherSearchError):
                journal = cls._open(place.path(number), settings)
                if number > 1:
                    journal.notes.append(
                        f"{str(place.path())!r} is of another search; this one's is {journal.path.name!r}"
                    )
                return journal
        raise AssertionError("some name is free")

    @classmethod
    def _open(cls, path: Path, settings: Mapping[str, Any]) -> "Journal":
        def compare(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
            _compare(path, found, expected)

        record = RecordFile.open(path, _KIND, settings, compare)
        try:
            journal = cls(record)
            for line, row in enumerate(record.rows, start=2):
                journal._take(line, row)
            return journal
        except BaseException:
            record.close()
            raise

    @property
    def path(self) -> Path:
        """The file."""
        return self.record.path

    @property
    def notes(self) -> list[str]:
        """What happened to it on opening."""
        return self.record.notes

    def _take(self, line: int, row: dict[str, Any]) -> None:
        try:
            if "heat" in row:
                self.heats.append(Heat.from_json(row))
                return
            entry = HistoryEntry.from_json(row)
            if entry.index != len(self.entries):
                raise ValueError(f"evaluation {entry.index} stands where {len(self.entries)} should")
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"line {line} of the journal {str(self.path)!r} is of another version: {error}; name another journal"
            ) from error
        self.entries.append(entry)

    def append(self, entry: HistoryEntry | Heat) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
            JournalError: it cannot be written.
        """
        self.record.append(entry.to_json())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.record.close()


def check_journal(place: Place) -> None:
    """Check, before any work, that a file is a journal, or may become one.

    Raises:
        JournalError: it is something else, in use by another process, or cannot be read or written.
    """
    check_record(place.path() if isinstance(place, JournalBeside) else Path(place), _KIND)


def _compare(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    names = [name for name in (*expected, *found) if name != "fingerprint"]
    for name in (*names, "fingerprint"):  # at last: whatever else differs may show in it
        if name not in found or name not in expected or found[name] != expected[name]:
            raise OtherSearchError(
                f"the journal {str(path)!r} belongs to {EXPLANATIONS.get(name, 'another search')}: its {name} is "
                f"{shown(found.get(name))}, this search's is {shown(expected.get(name))}; name another one"
            )
