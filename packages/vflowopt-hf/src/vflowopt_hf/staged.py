"""Run a stock text decoder with fewer rows from given layers on, by hooks that leave with the block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.arrays import HostBools
from vflowopt_hf.cache import PrunedLayer, convert, past_slots
from vflowopt_hf.masks import pruned_mask
from vflowopt_hf.rows import PlacedPlan, StageRows, merge_rows, stage_rows


@dataclass(frozen=True, eq=False)
class StagePlan:
    """What one forward of the decoder prunes."""

    plans: tuple[PlacedPlan, ...]
    stages: tuple[StageRows, ...]

    @classmethod
    def of(cls, plans: Sequence[PlacedPlan], present: HostBools, device: torch.device) -> "StagePlan | None":
        """Build it; ``None`` if there is nothing to drop, so that upstream runs bitwise as it is."""
        if all(placed.plan.is_identity for placed in plans):
            return None
        return cls(tuple(plans), stage_rows(plans, present, device))

    def stage_at(self, layer: int) -> int | None:
        """The stage that decoder layer ``layer`` belongs to; ``None`` before the first."""
        started = [index for index, stage in enumerate(self.stages) if stage.boundary <= layer]
        return started[-1] if started else None


@dataclass(frozen=True, eq=False)
class LayerView:
    """What the layers of one stage see in one forward."""

    mask: Tensor | None
    embeddings: Any
    slots: Tensor
    valid: Tensor | None


@dataclass(eq=False)
class Forward:
    """State of the decoder forward that is running."""

    plan: StagePlan | None
    queries: int
    views: dict[tuple[object, ...], LayerView] = field(default_factory=dict)


class StagedDecoder:
    """Hooks on a text decoder.

    Args:
        decoder: a transformers text decoder with ``layers``.
        begin: called with the decoder's keyword arguments at the start of every forward; returns what to prune.
    """

    def __init__(self, decoder: nn.Module, begin: Callable[[dict[str, Any]], StagePlan | None]) -> None:
        self._decoder, self._begin = decoder, begin
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
            ):
                hooks.callback(handle.remove)
            yield self

    def _enter(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if tokens is None else tokens
        self._forward = Forward(self._begin(kwargs), queries=0 if tokens is None else int(tokens.shape[1]))

    def _leave(self, *_: Any) -> None:
        self._forward = None

    def before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]] | None:
        """Hidden states and arguments for one decoder layer; ``None`` leaves them as they are."""
        forward = self._forward
        if forward is None:
            return None
        cache = kwargs.get("past_key_values")
        number = forward.plan.stage_at(index) if forward.plan else None
        stage = forward.plan.stages[number] if forward.plan and number is not None else None
        layer = None if cache is None or index >= len(cache.layers) else cache.layers[index]
        if stage is None and not isinstance(layer, PrunedLayer):
            return None
        if forward.plan and stage and stage.boundary == index:
            if number == 0:
                hidden = merge_rows(hidden, forward.plan.plans)
            gather = stage.gather.to(hidden.device)
            hidden = hidden.gather(1, gather[..., None].expand(-1, -1, hidden.shape[2]))
        pruned = None if cache is None else convert(cache, index)
        mask, embeddings = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        # Layers of one kind share the mask and rotary table objects; kinds of layers may differ in both.
        key = (number, () if pruned is None else pruned.history, id(mask), id(embeddings), hidden.device)
        view = forward.views.get(key)
        if view is None:
            view = self._view(forward.queries, stage, pruned, hidden, mask, embeddings)
            forward.views[key] = view
        if pruned is not None:
            rows = hidden.shape[1]
            pruned.announce(view.slots, view.valid, rows, forward.queries - rows, number)
        # Gaps in positions read as packed sequences to flash attention; rotary embeddings carry them already.
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings, "position_ids": None}
        return hidden, kwargs | {name: value for name, value in changes.items() if name in kwargs}

    def _view(
        self,
        queries: int,
        stage: StageRows | None,
        cache: PrunedLayer | None,
        hidden: Tensor,
        mask: object,
        embeddings: Any,
    ) -> LayerView:
        """What all layers of a stage share, computed at its first layer."""
        batch, device = hidden.shape[0], hidden.device
        logical = torch.arange(queries, device=device).expand(batch, -1) if stage is None else stage.logical.to(device)
        valid = None if stage is None or stage.valid is None else stage.valid.to(device)
        slots, slots_valid = logical, valid
        if cache is not None:
            past = past_slots(cache, batch, device)
            slots = torch.cat([past, logical + cache.get_seq_length()], dim=1)
            if valid is not None or cache.valid is not None:
                before = torch.ones_like(past, dtype=torch.bool) if cache.valid is None else cache.valid.to(device)
                now = torch.ones_like(logical, dtype=torch.bool) if valid is None else valid
                slots_valid = torch.cat([before, now], dim=1)
        implementation = str(self._decoder.config._attn_implementation)  # type: ignore[union-attr]
        reduced = pruned_mask(mask, logical, valid, slots, slots_valid, implementation=implementation)
        if embeddings is not None and stage is not None:
            embeddings = tuple(_gather_positions(part, logical) for part in embeddings)
        return LayerView(reduced, embeddings, slots, slots_valid)


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


def _gather_positions(part: Tensor, logical: Tensor) -> Tensor:
    """Rows of a rotary table [batch or 1, queries, dim]."""
    return part.expand(len(logical), -1, -1).gather(1, logical[..., None].expand(-1, -1, part.shape[-1]))
