"""Files of JSON lines that only grow: on disk line by line, and continued by nothing but what began them.

A process may be killed at any byte: only a line that ends in a newline counts, and what comes after the last newline is
dropped. Every line carries a checksum of itself and of all lines before it, so that nothing that was changed, taken out
or put in is mistaken for what was written. One process at a time has the file open.
"""

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import lock_descriptor

from vflowopt.errors import JournalError, named, shown
from vflowopt.files.output import probe, sync_folder

Header = Mapping[str, Any]

PATIENCE = 1.0
"""Seconds to wait for another process that has a file open: one that only checks it lets go at once."""

_CHECK = b', "check": "'


@dataclass(frozen=True)
class RecordKind:
    """What record files are for.

    Attributes:
        format: stands in their first line.
        noun: what to call one.
        remedy: what to do about one that cannot be used.
    """

    format: str
    noun: str
    remedy: str

    def named(self, path: Path) -> str:
        """A file of this kind, as messages name it."""
        return f"the {self.noun} {named(path)}"


class RecordFile:
    """A record file that this process has open; leave the ``with`` block to let others have it.

    Attributes:
        path: the file.
        rows: what was found after the first line, one JSON object a line.
        notes: what the user should know about the file.
    """

    def __init__(self, path: Path, kind: RecordKind) -> None:
        """Open and lock the file, which is made if it is not there: :meth:`open` is for others."""
        self.path, self._kind = path, kind
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._chain, self._end = "", 0
        self._file = path.open("a+b", buffering=0)  # what cannot be written is not to be kept for later
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(
        cls, path: Path, kind: RecordKind, header: Header, compare: Callable[[Header, Header], None]
    ) -> "RecordFile":
        """Open the file that was begun with this header, or begin it.

        Args:
            path: the file; its directory must exist.
            kind: what it is for.
            header: JSON values of the first line, without its format.
            compare: takes the header that is there and the one that should be, as JSON values; raises a JournalError
                that names what differs.

        Raises:
            JournalError: the file is something else (it is left alone), belongs to something else, was changed, is in
                use by another process, or cannot be read or written.
        """
        with _translated(path, kind):
            _require_folder(path, kind)
            is_new = not path.exists()
            record = cls(path, kind)
            try:
                record._begin(header, compare)
            except BaseException:
                record.close()
                raise
            if is_new:
                sync_folder(path.parent)
        return record

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line; it is on disk when this returns.

        Raises:
            JournalError: it cannot be written; the file ends as before.
        """
        with _translated(self.path, self._kind):
            self._write(row)

    def close(self) -> None:
        """Let other processes have the file."""
        self._file.close()

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            until = time.monotonic() + PATIENCE
            while not (locked := lock_descriptor(self._file.fileno(), blocking=False)) and time.monotonic() < until:
                time.sleep(PATIENCE / 20)
        except OSError as error:
            reason = f"{self._kind.named(self.path)} cannot be locked here ({error.strerror})"
            self.notes.append(f"{reason}: let no second process use it")
            return
        if not locked:
            raise JournalError(
                f"{self._kind.named(self.path)} is in use by another process; wait for it, or {self._kind.remedy}"
            )

    def _begin(self, header: Header, compare: Callable[[Header, Header], None]) -> None:
        first: Header = {"format": self._kind.format, **header}
        rows, torn = self._read_all()
        if not rows:
            if not _line(first, "")[0].startswith(torn):
                raise self._refusal("")
            self._file.truncate(0)
            self._write(first)
            return
        found, *self.rows = rows
        found.pop("format")
        compare(found, json.loads(json.dumps(header)))
        if torn:
            self._file.truncate(self._end)
            self.notes.append(f"{self._kind.named(self.path)} ended in the middle of a line, which is done again")

    def _read_all(self) -> tuple[list[dict[str, Any]], bytes]:
        """All whole lines, and what comes after them; refused if the first is another's, or one does not fit."""
        self._file.seek(0)
        content = self._file.readall()
        first, newline, _ = content.partition(b"\n")
        if newline:
            try:
                stated = json.loads(first)["format"]
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                stated = None
            if stated != self._kind.format:
                raise self._refusal("" if stated is None else f": its format is {shown(stated)}")
        *lines, torn = content.split(b"\n")
        self._end = len(content) - len(torn)
        return [self._read(number, line) for number, line in enumerate(lines, start=1)], torn

    def _refusal(self, why: str) -> JournalError:
        return JournalError(
            f"{named(self.path)} exists and is not a {self._kind.format} {self._kind.noun}{why}; it was left alone: "
            f"{self._kind.remedy}"
        )

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        where = f"line {number} of {self._kind.named(self.path)}"
        body, _, rest = line.rpartition(_CHECK)
        chain = _chained(self._chain, body + b"}")
        if rest != chain.encode() + b'"}':
            raise JournalError(
                f"{where} is damaged, or was edited: its checksum does not fit; restore the file, or "
                f"{self._kind.remedy}"
            )
        self._chain = chain
        row: dict[str, Any] = json.loads(body + b"}")
        return row

    def _write(self, row: Mapping[str, Any]) -> None:
        line, chain = _line(row, self._chain)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:  # a line of which only a part was written would spoil the next one
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)
        self._chain = chain


def check_record(path: Path, kind: RecordKind) -> None:
    """Check, before any work, that a record file can be continued or begun.

    Raises:
        JournalError: the file is something else, in use by another process, or cannot be read or written.
    """
    with _translated(path, kind):
        _require_folder(path, kind)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            probe(path.parent)
            return
        if not stat.S_ISREG(mode):
            raise JournalError(f"cannot read {kind.named(path)}: it is no regular file; {kind.remedy}")
        with RecordFile(path, kind) as record:
            record._read_all()


def _require_folder(path: Path, kind: RecordKind) -> None:
    if not path.parent.is_dir():
        raise JournalError(f"{kind.named(path)} lies in a directory that does not exist; make the directory first")


def _line(row: Mapping[str, Any], chain: str) -> tuple[bytes, str]:
    """The line of a row after lines with this checksum, and the checksum with it."""
    body = json.dumps(row).encode()
    chain = _chained(chain, body)
    return body[:-1] + _CHECK + chain.encode() + b'"}\n', chain


def _chained(chain: str, body: bytes) -> str:
    return hashlib.sha256(chain.encode() + body).hexdigest()[:16]


@contextmanager
def _translated(path: Path, kind: RecordKind) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise JournalError(f"cannot read or write {kind.named(path)}: {reason}; {kind.remedy}") from error
    except ValueError as error:  # a name that no system accepts
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"cannot read or write {kind.named(path)}: {error}; {kind.remedy}") from error
