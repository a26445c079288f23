"""A cache enters a pruned prefill: what it cannot hold is refused before any layer runs, and its layers are told."""

from collections.abc import Sequence
from typing import Any

from vflowopt_hf.decoder.cache import PrunedLayer
from vflowopt_hf.decoder.conversion import first_pruned, hold_whole, layer_of, require_readable
from vflowopt_hf.decoder.layer_kinds import has_keys, is_recurrent, stores_keys
from vflowopt_hf.decoder.recurrent_cache import PrunedRecurrentLayer, guard_states, require_states
from vflowopt_hf.decoder.slots import Permit, PrunedState
from vflowopt_hf.decoder.windows import sliding_window
from vflowopt_hf.plans.stage_plan import StagePlan

_PERMIT = "_vflowopt_permit"
"""The attribute of a cache that holds what its pruned layers share."""


def enter_prefill(cache: Any, plan: StagePlan, config: Any, depth: int) -> None:
    """Prepare a cache for a forward that prunes.

    Args:
        cache: the cache; changed only once nothing is refused.
        plan: what the forward prunes.
        config: of the text decoder.
        depth: its layers.

    Raises:
        UnsupportedOperationError: a layer of the cache cannot skip tokens, cannot be read by the attention
            implementation, or has a state that filler would become part of.
    """
    for index in range(depth):
        if is_recurrent(config, index):
            require_states(cache, index, even=plan.is_even)
        elif index >= plan.boundaries[0] and stores_keys(config, index):
            require_readable(layer_of(cache, index), str(config._attn_implementation))
    for index in range(plan.boundaries[0]):
        hold_whole(cache, index, plan.table.queries - plan.table.tail)
    guard_states(cache, first_pruned(cache))


def permit_of(cache: Any, config: Any) -> Permit:
    """What decoding steps may do with all layers of a cache, which the first one after a pruned prefill finds out.

    Args:
        cache: the cache.
        config: of the text decoder.
    """
    pruned = (layer for layer in getattr(cache, "layers", ()) if isinstance(layer, PrunedState) and layer.history)
    first = next(pruned, None)
    if first is None:
        return Permit(plain=not _has_states(cache))
    known: Permit | None = getattr(cache, _PERMIT, None)
    # Layers that were copied from another cache have the permit of that one.
    return known if known and known is first.permit else _permitted(cache, [first, *pruned], config)


def _permitted(cache: Any, pruned: Sequence[PrunedState], config: Any) -> Permit:
    alike = all(type(layer) is PrunedLayer and layer.is_plain for layer in pruned)
    depth = config.num_hidden_layers
    windows = any(has_keys(config, index) and sliding_window(config, index) for index in range(depth))
    permit = Permit(plain=alike and not windows and not _has_states(cache))
    setattr(cache, _PERMIT, permit)
    for layer in pruned:
        layer.permit = permit
    return permit


def _has_states(cache: Any) -> bool:
    return any(isinstance(layer, PrunedRecurrentLayer) for layer in getattr(cache, "layers", ()))
