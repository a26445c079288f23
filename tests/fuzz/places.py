"""Places where nothing can be written, or where something would be lost."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from fuzz.values import LONG
from fuzz.workspace import Workspace

Place = Callable[[Workspace, Path], str | Path]
"""Makes what has to be there, in a directory; returns what to give as the output."""


def _foreign(content: bytes) -> Place:
    def make(space: Workspace, folder: Path) -> Path:
        path = folder / "theirs"
        path.write_bytes(content)
        return path

    return make


def _copy_of(name: str) -> Place:
    def make(space: Workspace, folder: Path) -> Path:
        return shutil.copy(space / name, folder / "theirs")

    return make


def _taken(space: Workspace, folder: Path) -> Path:
    for name in ("ablate.md", "bench.json", "compare.csv", "reference-25.json"):
        (folder / name).write_text("mine")
    return folder


def _link(space: Workspace, folder: Path) -> Path:
    (folder / "link").symlink_to(_foreign(b"mine")(space, folder))
    return folder / "link"


def _loop(space: Workspace, folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _pipe(space: Workspace, folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


UNWRITABLE: Mapping[str, Place] = {
    "under a file": lambda space, folder: space / "notes.txt" / "out",
    "too long a name": lambda space, folder: folder / LONG,
    "a name of 256 bytes": lambda space, folder: folder / ("n" * 256),
    "too long a path": lambda space, folder: folder / "/".join(["n" * 200] * 30),
    "in /proc": lambda space, folder: "/proc/out",
    "in /sys": lambda space, folder: "/sys/kernel/out",
    "a loop of links": _loop,
    "a null byte": lambda space, folder: f"{folder}/a\0b",
}
"""Of files and directories alike."""

NO_FILE: Mapping[str, Place] = {
    "nothing": lambda space, folder: "",
    "a directory": lambda space, folder: folder,
    "the root": lambda space, folder: "/",
    "a missing directory": lambda space, folder: folder / "missing" / "out",
    "/dev/null": lambda space, folder: "/dev/null",
    "/dev/full": lambda space, folder: "/dev/full",
    "a pipe": _pipe,
    "somebody's notes": _foreign(b"my notes\n"),
    "somebody's JSON": _foreign(b'{"a": 1}'),
    "somebody's picture": _copy_of("images/0.png"),
    "a link to somebody's notes": _link,
    "a journal": _foreign(b'{"format": "vflowopt/journal/2"}\n'),
    "questions": _copy_of("questions.jsonl"),
    "a configuration": _copy_of("model/config.json"),
    "weights": _copy_of("model/model.safetensors"),
}
"""Of files."""

NO_DIRECTORY: Mapping[str, Place] = {
    "a file": _foreign(b"my notes\n"),
    "a link to a file": _link,
    "/dev/null": lambda space, folder: "/dev/null",
    "somebody's reports": _taken,
}
"""Of directories."""
