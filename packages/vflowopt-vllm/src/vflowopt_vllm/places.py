"""Where the visual tokens that are left stood in the image, carried from the encoder to the language model.

A retained token keeps its position: the one that it has in the unpruned prompt. vLLM asks for the positions of a
prompt when it comes, which is before its images are encoded, and lets models that prune correct them when the image's
embeddings are there. So text has its final positions at once; a row of an image holds ``-(base + 1)`` until then, with
``base`` the position of the image's first token. What is missing, the place of each token relative to ``base`` and how
many positions the image takes up, travels in extra columns of its embedding, as vLLM's own pruning of videos does it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 128
"""Places are written in two digits of this base: numbers up to 256 are exact in bfloat16."""

LIMIT = BASE**2
"""Places must be smaller."""

AXES = 3
"""Rotary axes that vLLM has positions for: time, row, column."""

COLUMNS = 2 * (AXES + 1)
"""That places take up beside an embedding."""


@dataclass(frozen=True)
class Places:
    """Of some retained tokens.

    Attributes:
        offsets: int64 [tokens, 3], from the first token of their image: 0 to :data:`LIMIT` - 1.
        extent: int64 [tokens, 1], positions that the image takes up, whatever is left of it: text goes on after these.
    """

    offsets: Tensor
    extent: Tensor

    @classmethod
    def of_image(cls, offsets: Tensor) -> "Places":
        """Of all tokens of an image, int64 [N, 3]."""
        return cls(offsets, (offsets.amax() + 1).expand(len(offsets), 1))

    def as_columns(self) -> Tensor:
        """In columns that any float type holds exactly: int64 [tokens, 8]."""
        values = torch.cat([self.offsets, self.extent], dim=1)
        return torch.cat([values // BASE, values % BASE], dim=1)

    @classmethod
    def from_columns(cls, columns: Tensor) -> "Places":
        """Read :meth:`as_columns`."""
        high, low = columns.float().round().long().chunk(2, dim=1)
        return cls(*(high * BASE + low).split([AXES, 1], dim=1))


@dataclass(frozen=True)
class PlacedImage:
    """An image in a prompt.

    Attributes:
        start: row of its first token in the pruned prompt.
        retained: its tokens there.
        extent: positions that it takes up.
    """

    start: int
    retained: int
    extent: int


def prompt_positions(length: int, images: Iterable[PlacedImage]) -> tuple[Tensor, int]:
    """Positions of a pruned prompt before its images are encoded.

    Args:
        length: tokens of the pruned prompt.
        images: in it.

    Returns:
        int64 [3, length + 1], as described above, and behind it the position of the first generated token; and what has
        to be added to the row of a generated token to get its position.
    """
    parts: list[Tensor] = []
    row = position = 0
    for image in sorted(images, key=lambda one: one.start):
        base = position + image.start - row
        parts += [torch.arange(position, base), torch.full((image.retained,), -(base + 1))]
        row, position = image.start + image.retained, base + image.extent
    parts.append(torch.arange(position, position + length - row + 1))
    return torch.cat(parts).expand(AXES, -1).contiguous(), position - row


def corrected(positions: Tensor, images: Tensor, computed: int, places: Places) -> tuple[Tensor, int]:
    """Positions of a prompt once the embeddings of some of its images' tokens are there.

    Rows that were corrected before, as those of a request that was preempted, stay as they are.

    Args:
        positions: int64 [3, length + 1], of :func:`prompt_positions` or of this function; or [3, length], as some of
            vLLM's runners hand back none but the prompt's. These ask only when there are embeddings, others in each
            step.
        images: bool [length], tokens of images.
        computed: rows whose keys are known already.
        places: of the first tokens of images after these rows.

    Returns:
        int64, of the positions' shape; and what :func:`prompt_positions` returns beside them, as soon as the prompt's
        last row is corrected.
    """
    length = len(images)
    rows = images[computed:].nonzero()[: len(places.offsets), 0] + computed
    before, offsets = positions[:, rows], places.offsets.T.to(positions.device)
    now = torch.where(before < 0, offsets - before - 1, before).to(positions.dtype)
    positions = positions.index_copy(1, rows, now)
    if positions.shape[1] > length:
        return positions, int(positions[0, length]) - length
    last = int(positions[0, -1])
    if len(rows) and int(rows[-1]) == length - 1:  # nothing follows the image but what is generated
        last += int(places.extent[-1]) - 1 - int(places.offsets[-1, 0])
    return positions, last + 1 - length
