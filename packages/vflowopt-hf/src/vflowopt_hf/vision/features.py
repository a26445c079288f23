"""Features that an encoder returned, known again when a forward is handed them."""

import operator
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """What an encoder returned, known by identity and not kept alive.

    Attributes:
        output: the output object.
        tensors: its features. They tell where the object was copied on its way, as accelerate does.
        entries: how many entries the features had.
    """

    output: weakref.ref[Any]
    tensors: tuple[weakref.ref[Tensor], ...]
    entries: int

    @classmethod
    def of(cls, output: Any) -> "Features":
        """The features in an encoder's output as it is now."""
        features = _features(output)
        return cls(weakref.ref(output), tuple(map(weakref.ref, _tensors(features))), len(features))

    @property
    def are_alive(self) -> bool:
        """Whether anybody could still hand them to a forward."""
        return self.output() is not None or any(tensor() is not None for tensor in self.tensors)

    def copies_in(self, output: Any) -> int:
        """How often an output holds these features, one copy after the other per sample; 0 if it holds anything else.

        For beams or several returned sequences, ``generate`` repeats the features in the output object itself.
        """
        features = _features(output)
        if output is self.output():
            copies, rest = divmod(len(features), self.entries) if self.entries else (1, 0)
            return 0 if rest else copies
        tensors = _tensors(features)
        known = [tensor() for tensor in self.tensors]
        return int(len(tensors) == len(known) > 0 and all(map(operator.is_, tensors, known)))


def _features(output: Any) -> Sequence[Tensor]:
    features: Sequence[Tensor] | None = getattr(output, "pooler_output", None)
    return () if features is None else features


def _tensors(features: Any) -> Sequence[Tensor]:
    return (features,) if isinstance(features, Tensor) else features
