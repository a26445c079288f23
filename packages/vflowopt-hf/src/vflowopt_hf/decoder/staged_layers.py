"""What each decoder layer gets in a forward with fewer rows from given layers on: hidden states, masks, positions."""

from typing import Any, TypeAlias

from torch import Tensor

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.decoder.cache_entry import enter_prefill
from vflowopt_hf.decoder.conversion import convert, pruned_layer
from vflowopt_hf.decoder.decoder_forward import DecoderForward
from vflowopt_hf.decoder.layer_kinds import LayerKinds
from vflowopt_hf.decoder.recurrent_cache import PrunedRecurrentLayer
from vflowopt_hf.decoder.residuals import residuals_after
from vflowopt_hf.decoder.shared_keys import SharedKeys, require_reusable
from vflowopt_hf.plans.merging import has_row_per_token, merge_rows, rows_of_stage
from vflowopt_hf.plans.rows import take_rows
from vflowopt_hf.plans.stage_plan import StagePlan
from vflowopt_hf.upstream import cache_in

Changes: TypeAlias = tuple[Tensor, dict[str, Any]] | None
"""Hidden states and changed arguments of a layer; ``None`` leaves them as they are."""


class StagedLayers:
    """The layers of one decoder; what they need to know of a forward is in the forward.

    Args:
        kinds: what they are.
    """

    def __init__(self, kinds: LayerKinds) -> None:
        self._kinds = kinds

    def require_prunable(self, forward: DecoderForward, plan: StagePlan) -> None:
        """Refuse what cannot be pruned before the first layer runs.

        Raises:
            UnsupportedModelError: features are added after the last layer.
            UnsupportedOperationError: a layer has a kind of attention that tokens cannot be missing from, or reuses
                keys that it cannot have fewer rows for.
        """
        kinds, residuals = self._kinds, forward.residuals
        if residuals is not None and len(residuals.values) >= kinds.depth:
            raise UnsupportedModelError(
                f"this {type(forward.module).__name__} adds features after the last of its {kinds.depth} layers, where "
                f"no layer follows to prune them for"
            )
        for index in range(plan.boundaries[0], kinds.depth):
            if kinds.attends[index]:
                kinds.window(index)
            if plan.stage_at(index) != plan.stage_at(kinds.keys_of[index]):
                require_reusable(forward.views.implementation, index)

    def see_cache(self, forward: DecoderForward, kwargs: dict[str, Any]) -> None:
        """The decoder was given a cache, or has made one for its layers."""
        cache = cache_in(kwargs)
        if forward.plan is not None and forward.cache is None and cache is not None:
            forward.cache = cache
            enter_prefill(cache, forward.plan, self._kinds.config, self._kinds.depth)

    def before(self, forward: DecoderForward, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changes:
        """What a layer gets.

        Args:
            forward: the decoder's that runs.
            index: of the layer.
            hidden: [batch, rows, features], what the layer before it has put out.
            kwargs: of the layer.
        """
        forward.bias = None
        if forward.plan is None and not (self._kinds.recurs[index] or self._kinds.reusing):
            return self._continue(forward, index, hidden, kwargs)
        self.see_cache(forward, kwargs)
        forward.rotary = kwargs.get("position_embeddings")
        self._open_state(forward, index, kwargs)
        added = _residual(forward, index - 1)
        if added is None:
            return self._staged(forward, index, hidden, kwargs)
        hidden = hidden + added.to(hidden.device, hidden.dtype)
        return self._staged(forward, index, hidden, kwargs) or (hidden, {})

    def _staged(self, forward: DecoderForward, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changes:
        plan = forward.plan
        number = None if plan is None else _stage(forward, plan, index, hidden)
        if plan is not None and number is not None:
            hidden = _entering(forward, plan, number, index, hidden)
        if index in self._kinds.reusing:
            return self._reuse(forward, index, number, hidden, kwargs)
        if plan is None or number is None:
            found = self._continue(forward, index, hidden, kwargs)
        else:
            found = self._pruned(forward, plan, number, index, hidden, kwargs)
        if index in self._kinds.sharing:
            given = kwargs.get("attention_mask")
            mask = given if found is None else found[1].get("attention_mask", given)
            changed, cache = mask is not given, cache_in(kwargs)
            forward.reused.share(index, SharedKeys(number, hidden.shape[1], mask, changed, forward.bias, cache))
        return found

    def _open_state(self, forward: DecoderForward, index: int, kwargs: dict[str, Any]) -> None:
        """Let a recurrent layer go on with its state in a cache that may lack tokens of earlier forwards."""
        if self._kinds.recurs[index]:
            cache = cache_in(kwargs)
            state = None if cache is None else cache.layers[index]
            if isinstance(state, PrunedRecurrentLayer):
                state.open()
                forward.states.append(state)

    def _reuse(
        self, forward: DecoderForward, index: int, number: int | None, hidden: Tensor, kwargs: dict[str, Any]
    ) -> Changes:
        """For a layer that attends to the keys of an earlier one."""
        stages = () if forward.plan is None else forward.plan.stages
        tables = kwargs.get("position_embeddings")
        view = forward.reused.view(self._kinds.keys_of[index], stages, number, hidden, tables)
        if view is None:
            return None
        forward.bias = view.bias
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings}
        return hidden, _those_given(changes if number is None else changes | {"position_ids": None}, kwargs)

    def _pruned(
        self,
        forward: DecoderForward,
        plan: StagePlan,
        number: int,
        index: int,
        hidden: Tensor,
        kwargs: dict[str, Any],
    ) -> Changes:
        """For a layer of a stage."""
        stage = plan.stages[number]
        if not self._kinds.attends[index]:
            # All that such a layer asks is which rows are filler; there is no padding any more.
            valid = None if stage.valid is None else stage.valid.to(hidden.device)
            return hidden, _those_given({"attention_mask": valid, "position_ids": None}, kwargs)
        cache = cache_in(kwargs)
        layer = None if cache is None else convert(cache, index)
        mask, embeddings = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        view = forward.views.of_stage(stage, layer, hidden, mask, embeddings, self._kinds.window(index))
        forward.bias = view.bias
        if layer is not None and view.slots is not None:
            rows, queries = hidden.shape[1], forward.views.queries
            layer.skip(view.slots, skipped=queries - rows, fixed=queries - stage.tail, stage=number)
            layer.expect(rows)
        # Gaps in positions read as packed sequences to flash attention; rotary embeddings carry them already.
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings, "position_ids": None}
        return hidden, _those_given(changes, kwargs)

    def _continue(self, forward: DecoderForward, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changes:
        """For a layer that runs with all rows, on a cache that may lack tokens of earlier forwards."""
        layer = pruned_layer(cache_in(kwargs), index)
        if layer is None:
            return None
        layer.expect(hidden.shape[1])
        mask, window = kwargs.get("attention_mask"), self._kinds.window(index)
        if window is None and (layer.known is None or (mask is None and layer.is_plain)):
            return None
        view = forward.views.of_continued(layer, hidden, mask, window)
        forward.bias = view.bias
        return None if view.mask is mask else (hidden, {"attention_mask": view.mask})


def rows_for(forward: DecoderForward, index: int, argument: Any) -> Any:
    """A further argument of a decoder layer, reduced to the rows of its stage if it has one per token."""
    plan = forward.plan
    number = None if plan is None else plan.stage_at(index)
    if plan is None or number is None or not has_row_per_token(argument, plan.table):
        return argument
    return rows_of_stage(argument, plan.table, plan.plans, number, plan.stages[number])


def _stage(forward: DecoderForward, plan: StagePlan, index: int, hidden: Tensor) -> int | None:
    """The stage that a layer belongs to, decided if it begins there."""
    if plan.awaits(index):
        plan.decide(forward.attention, forward.entered, hidden)
        forward.attention = None
    return plan.stage_at(index)


def _entering(forward: DecoderForward, plan: StagePlan, number: int, index: int, hidden: Tensor) -> Tensor:
    """Hidden states of the stage's rows, or of the last of them, if upstream runs no others."""
    stage, before = plan.stages[number], plan.before(number)
    whole = forward.views.queries if before is None else before.logical.shape[1]
    if stage.boundary != index or hidden.shape[1] < whole:
        return hidden
    return take_rows(merge_rows(hidden, plan.table, plan.plans, number, before), stage.samples, stage.gather)


def _residual(forward: DecoderForward, index: int) -> Tensor | None:
    """What the decoder would have added to a layer's output; ``None`` if nothing."""
    if forward.plan is None or forward.residuals is None or index < 0:
        return None
    number = forward.plan.stage_at(index)
    stage = None if number is None else forward.plan.stages[number]
    return residuals_after(forward.residuals, index, forward.plan.table, forward.plan.plans, stage)


def _those_given(changes: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The changes of arguments that a layer was called with."""
    return {name: value for name, value in changes.items() if name in kwargs}
