"""A cache enters a pruned prefill: what it cannot hold is refused before any layer runs, and its layers are told."""

from typing import Any

from vflowopt_hf.decoder.conversion import first_pruned, hold_whole, layer_of, require_readable
from vflowopt_hf.decoder.layer_kinds import is_recurrent, stores_keys
from vflowopt_hf.decoder.recurrent_cache import guard_states, require_states
from vflowopt_hf.plans.stage_plan import StagePlan


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
