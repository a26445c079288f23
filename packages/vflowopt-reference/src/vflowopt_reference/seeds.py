"""Random streams that cannot meet: a scene is named by (split, seed, index) and nothing else."""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np

Split = Literal["train", "validation", "search", "test"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)


def stream(split: Split, seed: int, index: int) -> np.random.Generator:
    """The generator of one item of a split; different splits, seeds or indices give independent streams.

    Raises:
        ValueError: no such split, or a negative seed or index.
    """
    if split not in SPLITS:
        raise ValueError(f"no such split: {split!r}; splits are {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    return np.random.default_rng(np.random.SeedSequence([SPLITS.index(split), seed, index]))
