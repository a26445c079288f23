"""How prompts tell which crops make an image: by names, or by a single token between crops."""

import numpy as np
import pytest

from vflowopt_hf.families.crops import lengths_by_gap, lengths_by_name, placeholder_runs

P, OPEN, CLOSE, BREAK, TILE, FIRST, SECOND, GLOBAL, WORD = range(1, 10)


def ids(*parts):
    return np.array([token for part in parts for token in ([part] if isinstance(part, int) else part)], dtype=np.int64)


RUN = [P, P, P]


def test_runs():
    starts, lengths = placeholder_runs(ids(WORD, RUN, WORD, [P], BREAK, RUN), P)
    assert (starts.tolist(), lengths.tolist()) == ([1, 5, 7], [3, 1, 3])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (ids(WORD, WORD), []),
        (ids(TILE, GLOBAL, RUN), [3]),
        (ids(OPEN, TILE, FIRST, RUN, TILE, SECOND, RUN, TILE, GLOBAL, RUN, CLOSE), [9]),
        (ids(TILE, GLOBAL, RUN, TILE, FIRST, RUN, TILE, GLOBAL, RUN), [3, 6]),
        (ids(TILE, FIRST, RUN, TILE, GLOBAL, RUN, WORD, TILE, GLOBAL, RUN), [6, 3]),
    ],
)
def test_names(prompt, expected):
    """An image ends with its global crop, and every prompt does."""
    assert lengths_by_name(prompt, P) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (ids(WORD, WORD), []),
        (ids(OPEN, RUN, CLOSE), [3]),
        (ids(OPEN, RUN, BREAK, RUN, BREAK, RUN, BREAK, CLOSE), [9]),
        (ids(OPEN, RUN, BREAK, CLOSE, OPEN, RUN, BREAK, RUN, BREAK, CLOSE), [3, 6]),
        (ids(OPEN, RUN, CLOSE, OPEN, RUN, CLOSE), [3, 3]),
    ],
)
def test_gaps(prompt, expected):
    assert lengths_by_gap(prompt, P) == expected
