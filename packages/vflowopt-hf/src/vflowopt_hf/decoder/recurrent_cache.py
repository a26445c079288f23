"""The cache layer of a recurrent decoder layer whose state some tokens were never part of.

Nothing about the state itself is special: it is what upstream makes of the rows that the layer got. But it goes on only
where the other layers of its cache do, so that no layer has changed when another one refuses.
"""

from typing import Any

from transformers.cache_utils import LinearAttentionLayer

from vflowopt.errors import PruningStateError, UnsupportedOperationError
from vflowopt_hf.decoder.slots import OUTSIDE, PrunedState


class PrunedRecurrentLayer(LinearAttentionLayer):
    """In place of upstream's ``LinearAttentionLayer`` from a pruned prefill on.

    Args:
        layer: what it replaces.
    """

    def __init__(self, layer: LinearAttentionLayer) -> None:
        self.__dict__.update(layer.__dict__)
        self._seen: dict[int, bool] = self.__dict__.pop("has_previous_state")
        self._guarded, self._open = False, False
        self._witness: PrunedState | None = None

    @property
    def has_previous_state(self) -> dict[int, bool]:  # type: ignore[override]
        """What upstream reads before anything else of the layer, in every forward.

        Raises:
            PruningStateError: read outside ``prune``, whose hooks open the layer.
        """
        if self._guarded and not self._open:
            raise PruningStateError(OUTSIDE)
        return self._seen

    @property
    def holds_state(self) -> bool:
        """Whether any token is part of the state."""
        return any(self._seen.values())

    def guard(self, witness: PrunedState | None) -> None:
        """State that a pruned prefill begins.

        Args:
            witness: a layer of the same cache that knows how many tokens may be removed again.
        """
        self._guarded, self._witness = True, witness

    def open(self) -> None:
        """Let the forward that runs read and update the state."""
        self._open = True

    def close(self) -> None:
        """The forward has ended."""
        self._open = False

    def reset(self) -> None:
        """Forget everything, the pruning state included."""
        self._guarded, self._witness = False, None
        super().reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end (a negative number), as upstream can where the state is that of a convolution.

        Raises:
            UnsupportedOperationError: the cut would reach visual tokens.
        """
        if self._guarded and tokens_to_remove:
            if self._witness is None:
                raise UnsupportedOperationError(
                    "cannot remove tokens from a pruned recurrent state; start from a fresh cache"
                )
            self._witness.require_removable(abs(tokens_to_remove))
        super().crop(tokens_to_remove)


def guard_states(cache: Any, witness: PrunedState | None) -> None:
    """Let the recurrent layers of a cache know that a pruned prefill begins.

    Args:
        cache: the cache; layers of other kinds are left as they are.
        witness: see :meth:`PrunedRecurrentLayer.guard`.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is LinearAttentionLayer:
            layer = cache.layers[index] = PrunedRecurrentLayer(layer)
        if isinstance(layer, PrunedRecurrentLayer):
            layer.guard(witness)


def require_states(cache: Any, index: int, *, even: bool) -> None:
    """Check that a cache has a state for a recurrent layer, and that filler will not become part of it.

    Args:
        cache: the cache.
        index: of the decoder layer.
        even: whether the forward has no padding, and no stage filler.

    Raises:
        UnsupportedOperationError: it has none, or filler would.
    """
    layers: Any = getattr(cache, "layers", ())
    layer = layers[index] if index < len(layers) else None
    if not isinstance(layer, LinearAttentionLayer):
        what = f"has a {type(layer).__name__}" if layer is not None else "has nothing"
        raise UnsupportedOperationError(
            f"this {type(cache).__name__} {what} for layer {index}, which is recurrent; use "
            f"DynamicCache(config=model.config) (cache_implementation='dynamic')"
        )
    held = layer.holds_state if isinstance(layer, PrunedRecurrentLayer) else any(layer.has_previous_state.values())
    if held and not even:
        raise UnsupportedOperationError(
            "samples of this batch bring or retain different numbers of tokens on a cache that holds some already: "
            "filler would become part of the states of recurrent layers; continue such samples one by one"
        )
