"""Which rows of a sample ask about an image: the prompt's text after it, up to the prompt's last token."""

import numpy as np

from vflowopt.arrays import HostBools, HostInts


def last_row(present: HostBools, following: int) -> HostInts:
    """Row of a prompt's last token: int64 [1], or [0] of a sample that is all padding.

    Args:
        present: bool [queries], False for padding.
        following: tokens at the end of the sample that come after its prompt, as drafts of its answer.
    """
    rows = np.flatnonzero(present)
    return rows[max(0, len(rows) - 1 - following) :][:1]


def text_rows(unit: HostInts, textual: HostBools, last: HostInts) -> HostInts:
    """Rows of the prompt's text after a unit; where there is none, of its last token: int64 [texts].

    Args:
        unit: rows of the unit's tokens, int64 [N].
        textual: bool [queries], what is present and belongs to no unit.
        last: see :func:`last_row`.
    """
    texts = np.flatnonzero(textual)
    texts = texts[(texts > unit[-1]) & (texts <= last)]
    return texts if len(texts) else last
