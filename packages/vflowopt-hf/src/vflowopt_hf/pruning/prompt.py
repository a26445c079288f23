"""What tells prompts apart that are recorded: the places of their visual tokens, and how many tokens there are."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from vflowopt.arrays import HostInts
from vflowopt_hf.graphs.watch import UnrecordableError
from vflowopt_hf.vision.encoders import Encoding

NO_TOKEN = -1
"""The id of filler, among those of tokens."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What planning reads of a prompt.

    Attributes:
        ids: int64 [batch, queries], on the host.
        mask: bool or int [batch, queries] on the host, 0 for padding; or ``None``.
        following: tokens at its end that come after the prompt.
        placeholders: token id of each modality.
    """

    ids: Tensor | None
    mask: Any
    following: int
    placeholders: Mapping[str, int]

    @cached_property
    def tokens(self) -> HostInts:
        """The ids, int64 [batch, queries].

        Raises:
            UnrecordableError: there is padding, or nothing to tell.
        """
        if self.ids is None:
            raise UnrecordableError("it was called with embeddings in place of token ids")
        if self.mask is not None and not (isinstance(self.mask, Tensor) and bool(self.mask.all())):
            raise UnrecordableError("prompts of the batch are padded")
        ids: HostInts = self.ids.numpy()
        return ids

    @property
    def shape(self) -> tuple[int, int]:
        """Batch and tokens."""
        batch, queries = self.tokens.shape
        return batch, queries

    @property
    def text(self) -> int:
        """Tokens at the end that are visual in no sample."""
        visual = np.logical_or.reduce(np.isin(self.tokens, list(self.placeholders.values())))
        return int(visual[::-1].argmax())

    def key(self, encodings: Sequence[Encoding], filler: int) -> Hashable:
        """What tells prompts apart whose tokens have the same roles, with so many rows of filler at their end."""
        ids = self.tokens
        whole = np.pad(ids, ((0, 0), (0, filler)), constant_values=NO_TOKEN)
        places = tuple((modality, (whole == token).tobytes()) for modality, token in self.placeholders.items())
        told = tuple(
            None if lengths is None else tuple(lengths)
            for encoding in encodings
            for lengths in map(encoding.tokens_per_unit, ids)
        )
        return whole.shape, places, told, self.following
