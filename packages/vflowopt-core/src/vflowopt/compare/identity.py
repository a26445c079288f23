"""Which weights and which questions results belong to, without loading a model."""

import hashlib
from pathlib import Path

EDGE = 1 << 20
"""Bytes read from either end of a file: names and shapes of tensors, and enough values to tell trainings apart."""


def identity_of_weights(source: str | Path) -> str:
    """Of a directory: a hash of its configuration and weight files. Of a hub id: the id."""
    directory = Path(source)
    if not directory.is_dir():
        return f"hub:{source}"
    files = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    return _digest(files)


def identity_of_file(file: Path | None) -> str | None:
    """A hash of a file; ``None`` without one."""
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(EDGE))
            stream.seek(max(0, size - EDGE))
            digest.update(stream.read(EDGE))
    return digest.hexdigest()[:16]
