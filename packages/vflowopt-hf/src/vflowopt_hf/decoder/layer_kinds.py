"""What decoder layers are, as their configuration tells: which of them have keys, by which tokens attend."""

from collections.abc import Sequence
from typing import Any

from vflowopt.errors import StrategyError
from vflowopt_hf.decoder.windows import sliding_window

RECURRENT = frozenset({"linear_attention", "conv", "mamba"})
"""Layers with a state of their own (gated delta net, short convolution, state space model) in place of keys."""

WITHOUT_KEYS = RECURRENT | {"mlp", "moe"}
"""Layers in which no token attends to another; the bare ones among them keep nothing at all."""


def has_keys(config: Any, layer: int) -> bool:
    """Whether a decoder layer attends to keys and values of each token, its own or those of an earlier layer.

    A layer that does not is a function of the rows that it gets, in their order: a token that is dropped before it has
    never been there. So stages may begin before such layers and between them.

    Args:
        config: a text configuration; without ``layer_types`` all layers have keys.
        layer: index of the layer.
    """
    return _kind(config, layer) not in WITHOUT_KEYS


def is_recurrent(config: Any, layer: int) -> bool:
    """Whether a decoder layer has a state of its own."""
    return _kind(config, layer) in RECURRENT


def keys_of(config: Any, layer: int) -> int:
    """The decoder layer whose keys a layer attends to: itself, or the last one of its kind that hands its keys on."""
    modes = getattr(config, "kv_sharing_modes", None)
    if modes is None or modes[layer] != "reuse":
        return layer
    kind = _kind(config, layer)
    return next(
        earlier for earlier in reversed(range(layer)) if modes[earlier] == "store" and _kind(config, earlier) == kind
    )


def stores_keys(config: Any, layer: int) -> bool:
    """Whether a decoder layer has keys in the cache, and does not reuse those of an earlier one."""
    return has_keys(config, layer) and keys_of(config, layer) == layer


def _kind(config: Any, layer: int) -> str | None:
    types = getattr(config, "layer_types", None)
    return None if types is None else str(types[layer])


def attending_layers(config: Any, layers: Sequence[int], scorer: str = "the scorer") -> dict[int, int]:
    """Whose attention decides stages: where a layer stores no keys, that of the nearest one before it that does.

    Args:
        config: a text configuration.
        layers: the last layer before each stage that is decided by attention.
        scorer: what decides, for messages.

    Returns:
        The first layer of each stage, by the layer that is observed for it.

    Raises:
        StrategyError: no layer before a stage stores keys, or none between it and the stage before.
    """
    found: dict[int, int] = {}
    for before in layers:
        observed = next((layer for layer in range(before, -1, -1) if stores_keys(config, layer)), None)
        first = max(found.values(), default=0)
        if observed is None or observed < first:
            depth = len(config.layer_types)
            following = next((layer for layer in range(before, depth) if stores_keys(config, layer)), -1)
            remedy = "use another scorer" if following < 0 else f"let the stage begin at layer {following + 1} or later"
            reuse, none = "reuse the keys of earlier ones", f"have none ({_kind(config, before)})"
            raise StrategyError(
                f"{scorer} ranks by the attention before layer {before + 1}, but decoder layers {first} to {before} "
                f"{reuse if has_keys(config, before) else none}; {remedy}"
            )
        found[observed] = before + 1
    return found


class LayerKinds:
    """What all layers of a decoder are, looked up once.

    Args:
        config: of the text decoder.
        depth: its layers.

    Attributes:
        config: as given.
        depth: as given.
        attends: of each layer, see :func:`has_keys`.
        recurs: of each layer, see :func:`is_recurrent`.
        keys_of: of each layer, see :func:`keys_of`.
        reusing: layers that attend to the keys of an earlier one.
        sharing: layers whose keys these are.
    """

    def __init__(self, config: Any, depth: int) -> None:
        self.config, self.depth = config, depth
        self.attends = [has_keys(config, index) for index in range(depth)]
        self.recurs = [is_recurrent(config, index) for index in range(depth)]
        self.keys_of = [keys_of(config, index) for index in range(depth)]
        self.reusing = [index for index, layer in enumerate(self.keys_of) if layer != index]
        self.sharing = {self.keys_of[index] for index in self.reusing}
        self._windows: dict[int, int | None] = {}

    def window(self, index: int) -> int | None:
        """See :func:`vflowopt_hf.decoder.windows.sliding_window`; looked up when it is first asked for."""
        if index not in self._windows:
            self._windows[index] = sliding_window(self.config, index)
        return self._windows[index]

    @property
    def implementation(self) -> str:
        """Name of the attention implementation, which may be another one in the next forward."""
        return str(self.config._attn_implementation)
