"""Files that are written whole or not at all, at places that are claimed before the work.

Work may take hours, and its result is written at the end. Whether it can be written, and whether something else would
be lost by that, is found out at the beginning (:meth:`Output.claim`). At the end the content goes into a temporary file
beside, which takes the place in one step (:meth:`Output.write`).
"""

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vflowopt.errors import OutputError, named

_BEGINNING = 1024
"""Bytes of a file by which its kind is told."""

_TEMPORARY = re.compile(r"\.vflowopt-(\d+)-[0-9a-f]{8}\.part")
"""Names of temporary files; the number is the process that writes it."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that vflowopt writes, told by its first bytes.

    Attributes:
        name: what one is called in a message, for example "a strategy".
        beginning: pattern of the bytes.
    """

    name: str
    beginning: re.Pattern[bytes]

    @classmethod
    def json(cls, name: str, file_format: str) -> "FileKind":
        """JSON that states its format first."""
        return cls(name, re.compile(rb'\s*\{\s*"format"\s*:\s*"' + re.escape(file_format.encode()) + rb'"'))


@dataclass(frozen=True)
class Output:
    """A file that is to be written; made by :meth:`claim`.

    Attributes:
        path: the file, as it was given.
        kind: what it will hold.
        inputs: files that the same work reads.
        force: whether it may replace anything.
    """

    path: Path
    kind: FileKind
    inputs: tuple[Path, ...]
    force: bool

    @classmethod
    def claim(
        cls, path: str | Path, kind: FileKind, *, inputs: Iterable[str | Path] = (), force: bool = False
    ) -> "Output":
        """Check, before any work, that a file can be written and that nothing is lost by it.

        What is there is replaced only if it is empty, or if vflowopt wrote it, it is of the same kind, and none of the
        inputs. A link is followed. Temporary files that killed processes have left in the directory are removed.

        Args:
            path: the file.
            kind: what it will hold.
            inputs: files that the same work reads.
            force: replace whatever file is there.

        Raises:
            OutputError: it cannot be written, or something would be lost; says why, and what to do.
        """
        with _refused(path):
            claimed = cls(Path(path), kind, tuple(map(Path, inputs)), force)
            claimed._check()
            probe(claimed._target.parent)
        return claimed

    def write(self, content: str | bytes) -> Path:
        """Write the file; it is whole and on disk when this returns, and as it was if this fails.

        Returns:
            Its path.

        Raises:
            OutputError: it cannot be written any more, or something else has come to its place since it was claimed;
                says where the content is kept instead.
        """
        data = content.encode() if isinstance(content, str) else content
        try:
            with _refused(self.path):
                self._check()
                _replace(self._target, data)
        except OutputError as error:
            raise OutputError(f"{error}; {_kept(data, self._target.name)}") from error
        return self.path

    @property
    def _target(self) -> Path:
        return Path(os.path.realpath(self.path))

    def _check(self) -> None:
        shown, target = named(self.path), self._target
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:
            if not target.parent.is_dir():
                raise OutputError(
                    f"cannot write {shown}: there is no directory {named(self.path.parent)}; make it first"
                ) from None
            return
        if stat.S_ISDIR(mode):
            raise OutputError(f"cannot write {shown}: it is a directory; name a file")
        if not stat.S_ISREG(mode):
            raise OutputError(f"cannot write {shown}: it is no regular file; name another file")
        if not os.access(target, os.W_OK):
            raise OutputError(f"cannot write {shown}: it is write-protected; name another file")
        if self.force:
            return
        if any(_same(target, one) for one in self.inputs):
            raise OutputError(f"{shown} is read as well; name another file, or replace it (--force, force=True)")
        with target.open("rb") as file:
            beginning = file.read(_BEGINNING)
        if beginning and not self.kind.beginning.match(beginning):
            raise OutputError(
                f"{shown} exists and is not {self.kind.name} that vflowopt wrote; it was left alone: name another "
                f"file, or replace it (--force, force=True)"
            )


def claim_folder(path: str | Path) -> Path:
    """Check, before any work, that files can be written into a directory; :func:`make_folder` makes it if need be.

    Raises:
        OutputError: they cannot; says why, and what to do.
    """
    with _refused(path):
        folder = Path(path)
        there = folder
        while not _exists(there):
            there = there.parent
        if not there.is_dir():
            raise OutputError(f"cannot write to {named(path)}: {named(there)} is no directory; name another one")
        probe(there)
    return folder


def make_folder(path: Path) -> Path:
    """Make a directory, and those above it, if it is not there; returns it.

    Raises:
        OutputError: that is impossible.
    """
    with _refused(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def probe(folder: Path) -> None:
    """Write a temporary file, the only sure way to find out whether one can; sweep up those of killed processes.

    Raises:
        OSError: it cannot be written.
    """
    for left in folder.glob(".vflowopt-*.part"):
        found = _TEMPORARY.fullmatch(left.name)
        if found and not _is_running(int(found[1])):
            with suppress(OSError):
                left.unlink()
    temporary = _temporary(folder)
    try:
        temporary.touch(exist_ok=False)
    finally:
        temporary.unlink(missing_ok=True)


def _replace(target: Path, data: bytes) -> None:
    temporary = _temporary(target.parent)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a directory on disk, where the system has a way to."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # some network file systems refuse
                os.fsync(number)
        finally:
            os.close(number)


def _temporary(folder: Path) -> Path:
    return folder / f".vflowopt-{os.getpid()}-{secrets.token_hex(4)}.part"


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        pass
    return True


def _kept(data: bytes, name: str) -> str:
    """Keep what cannot be written in the directory for temporary files; says where."""
    try:
        path = Path(tempfile.mkdtemp(prefix="vflowopt-")) / name
        path.write_bytes(data)
    except OSError as error:
        return f"nor can it be kept elsewhere: {error.strerror}"
    return f"it was kept as {named(path)}"


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return one.samefile(other)
    return False


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _refused(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {named(path)}: {error.strerror or error}; name another file") from error
    except (ValueError, TypeError) as error:  # a name that no system accepts
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {named(path)}: {error}; name another file") from error
