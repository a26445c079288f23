"""Rotary positions of a decoder layer: by what they turn queries and keys, and how near that leaves them."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from torch import Tensor, nn

from vflowopt.errors import UnsupportedModelError


@dataclass(frozen=True, eq=False)
class Rotary:
    """What a decoder layer's attention turns queries and keys by.

    Attributes:
        given: what the layer was called with, for all positions of the forward.
        widths: numbers of dimensions of a head that tables of this layer can be for.
    """

    given: Any
    widths: frozenset[int]

    @classmethod
    def of(cls, given: Any, attention: nn.Module, size: int) -> "Rotary | None":
        """Of a layer's attention, with heads of so many dimensions; ``None`` if it turns nothing."""
        return (
            cls(given, frozenset({size, _turned(attention, size)})) if given is not None and _turns(attention) else None
        )

    def closeness(self, sample: int, asking: Tensor, asked: Tensor, size: int) -> Tensor:
        """Products of vectors of ones that were turned by some positions of a sample, over their dimensions.

        Args:
            sample: index in the batch.
            asking: int64 [queries].
            asked: int64 [keys].
            size: dimensions of a head.

        Returns:
            float32 [queries, keys], on the device of the positions.

        Raises:
            UnsupportedModelError: there are no tables of a cosine and a sine for each turned dimension.
        """
        cosines, sines = (table[sample if len(table) > 1 else 0].to(asking.device).float() for table in self._tables())
        # A pair of ones turned by a is (cos a - sin a, cos a + sin a); what a table leaves out is not turned.
        turned = cosines[asking] @ cosines[asked].T + sines[asking] @ sines[asked].T
        return (turned + (size - cosines.shape[-1])) / size

    def _tables(self) -> tuple[Tensor, Tensor]:
        match self.given:
            case (Tensor(ndim=3) as cosines, Tensor(ndim=3) as sines) if cosines.shape[-1] in self.widths:
                return cosines, sines
            case (Tensor() as cosines, Tensor()):
                kind = f"tables of shape {list(cosines.shape)}"
            case Tensor() as given:
                kind = f"a tensor of {given.dtype}"
            case given:
                kind = type(given).__name__
        raise UnsupportedModelError(
            f"the decoder's rotary positions are {kind}, not tables [batch, positions, "
            f"{' or '.join(map(str, sorted(self.widths)))}] of cosines and sines, by which the scorer corrects "
            f"attention; use one that does not, such as 'sparsevlm'"
        )


def _turns(attention: nn.Module) -> bool:
    """Whether an attention uses the tables that its layer is called with."""
    if not getattr(attention, "use_rope", True):
        return False
    # Those of Cohere 2 hand the tables to all layers, and only layers with a window use them.
    return not (type(attention).__name__ == "Cohere2Attention" and getattr(attention, "sliding_window", None) is None)


def _turned(attention: nn.Module, size: int) -> int:
    """How many dimensions of a head an attention turns."""
    own = getattr(attention, "qk_rope_head_dim", None)
    if own is not None:
        return int(own)
    config = getattr(attention, "config", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters.get(getattr(attention, "layer_type", None)) or parameters
    return 2 * ceil(size * float(parameters.get("partial_rotary_factor", 1.0)) / 2)
