"""Append to a file so that what was written survives a crash right afterwards."""

import os
from pathlib import Path


def append_durably(path: Path, data: bytes, truncate_to: int | None = None) -> None:
    """Append bytes; they are on disk when this returns.

    Args:
        path: the file; created if there is none.
        data: what to append.
        truncate_to: cut the file to this many bytes first.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("ab") as file:
        if truncate_to is not None:
            file.truncate(truncate_to)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
