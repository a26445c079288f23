"""``--out`` and ``--force``: what a command writes, claimed before it does anything else."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from vflowopt.files.images import image_files
from vflowopt.files.output import FileKind, Output

ForceOption = Annotated[
    bool, typer.Option("--force", help="Replace what is there even if vflowopt did not write it, or it is an input.")
]


def claim(out: Path, kind: FileKind, force: bool, *inputs: Path | Iterable[Path] | None) -> Output:
    """Claim the output of a command.

    Args:
        out: the file.
        kind: what it will hold.
        force: replace whatever is there.
        inputs: what the command's other options name; of a directory its images.

    Raises:
        OutputError: it cannot be written, or something would be lost.
    """
    return Output.claim(out, kind, inputs=_files(inputs), force=force)


def _files(inputs: Iterable[Path | Iterable[Path] | None]) -> Iterator[Path]:
    for one in inputs:
        if isinstance(one, Path):
            yield from image_files(one) if os.path.isdir(one) else [one]  # noqa: PTH112 - Path's raises for over-long names
        elif one is not None:
            yield from _files(one)
