"""Quantised cache layers of which some tokens were never stored: see :mod:`vflowopt_hf.decoder.cache`."""

import functools
from typing import Any, NoReturn

from transformers import cache_utils

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.cache import PrunedLayer

QUANTIZED: tuple[type, ...] = tuple(
    getattr(cache_utils, name) for name in ("QuantizedLayer", "BaseQuantizedLayer") if hasattr(cache_utils, name)
)
"""What upstream's quantised layers descend from."""


class PrunedQuantizedLayer(PrunedLayer):
    """What pruned layers of all backends have in common; :func:`pruned_quantized` makes them layers of one.

    The backend quantises what it is given: keys and values of retained tokens. Its groups cannot be cut or taken apart.
    """

    backend: type
    is_croppable = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (self.backend,), vars(self)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: not possible.

        Raises:
            UnsupportedOperationError: there were any to remove.
        """
        if tokens_to_remove:
            self._refuse("remove tokens from")

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:  # noqa: ARG002
        """Repeat every sample: not possible.

        Raises:
            UnsupportedOperationError: always.
        """
        self._refuse("repeat samples of")

    def batch_select_indices(self, indices: Any) -> NoReturn:  # noqa: ARG002
        """Keep some samples: not possible.

        Raises:
            UnsupportedOperationError: always.
        """
        self._refuse("select samples of")

    def _refuse(self, wish: str) -> NoReturn:
        raise UnsupportedOperationError(
            f"cannot {wish} a quantised KV cache ({self.backend.__name__}); use DynamicCache() "
            f"(cache_implementation='dynamic')"
        )


@functools.cache
def pruned_quantized(backend: type) -> Any:
    """The pruned layer of a quantisation backend."""
    return type(f"Pruned{backend.__name__}", (PrunedQuantizedLayer, backend), {"backend": backend})


def _blank(backend: type) -> Any:
    kind = pruned_quantized(backend)
    return kind.__new__(kind)
