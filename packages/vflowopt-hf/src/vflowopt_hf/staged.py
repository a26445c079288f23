"""Run a stock text decoder with fewer rows from given layers on, by hooks that leave with the block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.cache import PrunedLayer, PrunedSlidingLayer, convert, past_slots
from vflowopt_hf.masks import pruned_mask
from vflowopt_hf.observing import AttentionCall, observe_attention
from vflowopt_hf.residuals import LayerResiduals
from vflowopt_hf.rows import StageRows, merge_rows, take_rows
from vflowopt_hf.stage_plan import StagePlan
from vflowopt_hf.windows import require_logical_window, sliding_window


@dataclass(frozen=True, eq=False)
class LayerView:
    """What the layers of one stage see in one forward."""

    mask: Tensor | None
    embeddings: Any
    slots: Tensor
    valid: Tensor | None


@dataclass(eq=False)
class Forward:
    """State of the decoder forward that is running.

    Attributes:
        plan: what it prunes.
        queries: tokens of the unpruned forward.
        residuals: what the decoder would have added after its first layers.
        entered: embeddings [batch, queries, features], if the decoder got such.
        attention: of the layer that has run last, if it is to decide the next stage.
        views: what layers see, by what they share.
    """

    plan: StagePlan | None
    queries: int
    residuals: LayerResiduals | None
    entered: Tensor | None
    attention: AttentionCall | None = None
    views: dict[tuple[object, ...], LayerView] = field(default_factory=dict)


class StagedDecoder:
    """Hooks on a text decoder.

    Args:
        decoder: a transformers text decoder with ``layers``.
        begin: called with the decoder's keyword arguments at the start of every forward; returns what to prune.
        take_residuals: see :meth:`vflowopt_hf.family.Family.take_residuals`.
        observed: layers by whose attention the stage after them is decided.
    """

    def __init__(
        self,
        decoder: nn.Module,
        begin: Callable[[dict[str, Any]], StagePlan | None],
        take_residuals: Callable[[dict[str, Any]], LayerResiduals | None],
        observed: Sequence[int] = (),
    ) -> None:
        self._decoder, self._begin, self._take_residuals = decoder, begin, take_residuals
        self._observed = observed
        self._layers: list[nn.Module] = list(decoder.layers)  # type: ignore[arg-type]
        self._forward: Forward | None = None

    @contextmanager
    def installed(self) -> Iterator["StagedDecoder"]:
        """Hooks are in place inside the block."""
        with ExitStack() as hooks:
            for handle in (
                self._decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
                self._decoder.register_forward_hook(self._leave, always_call=True),
                *(
                    layer.register_forward_pre_hook(_LayerHook(self, index), with_kwargs=True)
                    for index, layer in enumerate(self._layers)
                ),
                *(
                    layer.register_forward_hook(partial(self._after_layer, index))
                    for index, layer in enumerate(self._layers)
                ),
            ):
                hooks.callback(handle.remove)
            for index in self._observed:
                attention = attention_module(self._layers[index])
                hooks.enter_context(observe_attention(attention, partial(self._note, index)))
            yield self

    def _note(self, index: int, call: AttentionCall) -> None:
        if self._forward is not None and self._forward.plan is not None and self._forward.plan.awaits(index + 1):
            self._forward.attention = call

    def _enter(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        entered = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if entered is None else entered
        plan, arguments = self._begin(kwargs), dict(kwargs)
        residuals = None if plan is None else self._take_residuals(arguments)
        self._forward = Forward(plan, 0 if tokens is None else int(tokens.shape[1]), residuals, entered)
        return None if plan is None else (args, arguments)

    def _leave(self, *_: Any) -> None:
        self._forward = None

    def before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]] | None:
        """Hidden states and arguments for one decoder layer; ``None`` leaves them as they are."""
        forward = self._forward
        if forward is None:
            return None
        if forward.plan and forward.plan.awaits(index):
            assert forward.attention is not None
            assert forward.entered is not None
            forward.plan.decide(forward.attention, forward.entered)
            forward.attention = None
        cache = kwargs.get("past_key_values")
        number = forward.plan.stage_at(index) if forward.plan else None
        stage = forward.plan.stages[number] if forward.plan and number is not None else None
        layer = None if cache is None or index >= len(cache.layers) else cache.layers[index]
        if stage is None and not isinstance(layer, PrunedLayer):
            return None
        if forward.plan and stage and stage.boundary == index:
            if number == 0:
                hidden = merge_rows(hidden, forward.plan.plans)
            hidden = take_rows(hidden, stage.gather)
        pruned = None if cache is None else convert(cache, index)
        mask, embeddings = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        window = sliding_window(self._decoder.config, index)
        # Layers of one kind share the mask and rotary table objects; kinds of layers may differ in both.
        held = None if pruned is None else (pruned.history, pruned.stored_length())
        key = (number, held, window, id(mask), id(embeddings), hidden.device)
        view = forward.views.get(key)
        if view is None:
            view = self._view(forward.queries, stage, pruned, hidden, mask, embeddings, window)
            forward.views[key] = view
        if pruned is not None:
            rows = hidden.shape[1]
            pruned.announce(view.slots, view.valid, rows, forward.queries - rows, number)
        # Gaps in positions read as packed sequences to flash attention; rotary embeddings carry them already.
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings, "position_ids": None}
        return hidden, kwargs | {name: value for name, value in changes.items() if name in kwargs}

    def _after_layer(self, index: int, _module: nn.Module, _args: tuple[Any, ...], hidden: Tensor) -> Tensor | None:
        """The layer's output with what the decoder would have added to it; ``None`` leaves it as it is."""
        forward = self._forward
        if forward is None or forward.plan is None or forward.residuals is None:
            return None
        number = forward.plan.stage_at(index)
        stage = None if number is None else forward.plan.stages[number]
        added = forward.residuals.after(index, forward.plan.plans, stage)
        return None if added is None else hidden + added.to(hidden.device, hidden.dtype)

    def _view(
        self,
        queries: int,
        stage: StageRows | None,
        cache: PrunedLayer | None,
        hidden: Tensor,
        mask: object,
        embeddings: Any,
        window: int | None,
    ) -> LayerView:
        """What all layers of a stage share, computed at its first layer."""
        batch, device = hidden.shape[0], hidden.device
        logical = torch.arange(queries, device=device).expand(batch, -1) if stage is None else stage.logical.to(device)
        valid = None if stage is None or stage.valid is None else stage.valid.to(device)
        slots, slots_valid = logical, valid
        length, first = queries, 0
        if cache is not None:
            length, first = queries + cache.get_seq_length(), cache.get_mask_sizes(queries)[1]
            past = past_slots(cache, batch, device)
            slots = torch.cat([past, logical + cache.get_seq_length()], dim=1)
            if valid is not None or cache.valid is not None:
                before = torch.ones_like(past, dtype=torch.bool) if cache.valid is None else cache.valid.to(device)
                now = torch.ones_like(logical, dtype=torch.bool) if valid is None else valid
                slots_valid = torch.cat([before, now], dim=1)
        implementation = str(self._decoder.config._attn_implementation)  # type: ignore[union-attr]
        in_cache = isinstance(cache, PrunedSlidingLayer)
        require_logical_window(window, length, queries, implementation, in_cache=in_cache)
        reduced = pruned_mask(mask, logical, valid, slots, slots_valid, first=first, implementation=implementation)
        if embeddings is not None and stage is not None:
            embeddings = tuple(take_rows(part.expand(batch, -1, -1), logical) for part in embeddings)
        return LayerView(reduced, embeddings, slots, slots_valid)


def attention_module(layer: nn.Module) -> nn.Module:
    """The attention module of a decoder layer.

    Raises:
        UnsupportedModelError: it is not where transformers' decoders have it.
    """
    attention = getattr(layer, "self_attn", None)
    if not isinstance(attention, nn.Module):
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no attention module self_attn to observe; use a scorer that does not need the "
            f"decoder's attention"
        )
    return attention


class _LayerHook:
    """Pre-hook of one decoder layer."""

    def __init__(self, staged: StagedDecoder, index: int) -> None:
        self._staged, self._index = staged, index

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        inside = dict(kwargs)
        hidden = args[0] if args else inside.pop("hidden_states")
        changed = self._staged.before_layer(self._index, hidden, inside)
        if changed is None:
            return None
        hidden, arguments = changed
        return (hidden, *args[1:]), arguments
