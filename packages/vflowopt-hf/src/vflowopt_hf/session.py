"""``prune`` for transformers models: one session of hooks over backbone, vision attention and decoder."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vflowopt import PruningPlan, PruningReport, Strategy
from vflowopt.budgets.cost import CostModel
from vflowopt.components.schedule import stage_widths
from vflowopt.components.stage_recycling import HIDDEN_STATES
from vflowopt.components.stage_scoring import DECODER_ATTENTION
from vflowopt.errors import PruningStateError, StrategyError, UnsupportedOperationError
from vflowopt.report import BreakEven, UnitReport
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.decoder.compiling import eager_prefills, require_step
from vflowopt_hf.decoder.generation import checked_generation
from vflowopt_hf.decoder.kv_cache import cache_shape
from vflowopt_hf.decoder.padding import token_mask
from vflowopt_hf.decoder.staged import StagedDecoder
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.guarding import break_even, left_alone
from vflowopt_hf.plans.prefill import ScoredUnit, place_units, plan_units
from vflowopt_hf.plans.stage_plan import StagePlan, observed_layers
from vflowopt_hf.upstream import cache_in
from vflowopt_hf.vision.capture import NO_CLASS_TOKEN
from vflowopt_hf.vision.class_rows import vision_depth
from vflowopt_hf.vision.encoders import EncoderTap, Encoding, tap_encoders

OFFERED = frozenset({"attention", "entropy", "keys", "features", DECODER_ATTENTION, HIDDEN_STATES})
"""What components may need (:attr:`vflowopt.components.Component.needs`) and every family gives."""

CLASS_ATTENTION = "class-attention"
"""What only families with a class token give."""


class Session:
    """A model being pruned; also the ``pruning`` that users see (:class:`vflowopt.adapter.Pruning`)."""

    def __init__(
        self,
        family: Family,
        model: Any,
        strategy: Strategy,
        statistics: PixelStatistics,
        guard: CostModel | None = None,
    ) -> None:
        self._family, self._model, self._strategy, self._statistics = family, model, strategy, statistics
        self._guard = guard
        self._expected: BreakEven | None = None
        self._tap: EncoderTap | None = None
        self._inputs: dict[str, Any] = {}
        self._given: list[Encoding] = []
        self._mark = 0
        self._done: RemovableHandle | None = None
        self._scored: list[ScoredUnit] = []
        self._planned: list[ScoredUnit] = []
        self._shape = (0, 0)
        self._stages: StagePlan | None = None

    @contextmanager
    def installed(self) -> Iterator["Session"]:
        """Hooks are in place inside the block and gone after it, also after an exception.

        Raises:
            PruningStateError: the model is being pruned already.
        """
        refuse_nesting(self._family, self._model)
        backbone = self._family.backbone(self._model)
        with ExitStack() as stack:
            depth = vision_depth(self._family, self._model)
            layers = max(component.class_attention_layers(depth) for component in components_of(self._strategy))
            self._tap = stack.enter_context(tap_encoders(self._family, self._model, layers))
            for handle in (
                self._model.register_forward_pre_hook(_refuse_full_length_arguments, with_kwargs=True),
                backbone.register_forward_pre_hook(self._enter, with_kwargs=True),
            ):
                stack.callback(handle.remove)
            decoder, observed = self._family.decoder(self._model), observed_layers(self._strategy)
            staged = StagedDecoder(decoder, self._begin, self._family.take_residuals, observed)
            stack.enter_context(staged.installed())
            stack.enter_context(eager_prefills(self._model))
            stack.enter_context(checked_generation(self._model))
            yield self

    def recall(self, encodings: Iterable[Encoding]) -> None:
        """Take over what was encoded before the block, so that it may come in as ``mm_encoder_outputs``."""
        assert self._tap is not None
        for encoding in encodings:
            self._tap.add(encoding)

    def _enter(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self._tap is not None
        ids, cache = args[0] if args else kwargs.get("input_ids"), cache_in(kwargs)
        if torch.compiler.is_compiling():
            require_step(ids)
            return
        if isinstance(ids, Tensor) and ids.shape[1] > 1:
            # Copied before the vision tower runs: nothing waits for the device after it.
            mask = token_mask(kwargs.get("attention_mask"), ids.shape[1], cache)
            ids, mask = ids.cpu(), mask.cpu() if isinstance(mask, Tensor) else mask
            self._inputs = {"input_ids": ids, "attention_mask": mask}
            self._done = backbone.register_forward_hook(self._leave, always_call=True)
        given = {name: out for name, out in (kwargs.get("mm_encoder_outputs") or {}).items() if out is not None}
        self._given = self._tap.find(given)
        self._mark = self._tap.mark()

    def _leave(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        assert self._done is not None
        self._done.remove()
        self._inputs, self._given = {}, []
        planned, self._planned = self._planned, []
        if output is not None:  # else the forward has failed
            for scored in planned:
                scored.require_finite()

    def _begin(self, kwargs: dict[str, Any]) -> StagePlan | None:
        """Plan the decoder forward that starts now."""
        assert self._tap is not None
        encodings = [*self._given, *self._tap.since(self._mark)]
        if not encodings:
            return None
        embeddings: Tensor = kwargs["inputs_embeds"]
        prefill = place_units(
            self._family.placeholder_ids(self._model),
            encodings,
            self._inputs.get("input_ids"),
            self._inputs.get("attention_mask"),
            self._statistics,
            embeddings,
        )
        self._expected = None if self._guard is None else break_even(self._guard, self._strategy, prefill)
        if self._expected is None or self._expected.pays:
            self._scored = plan_units(self._strategy, prefill.units, wait=False)
        else:
            self._scored = left_alone(self._strategy, prefill.units)
        self._planned = self._scored
        self._stages = StagePlan.of(self._strategy, self._scored, prefill.present, embeddings.device)
        self._shape = (embeddings.shape[0], embeddings.shape[1])
        return self._stages

    @property
    def _plans(self) -> list[PruningPlan]:
        placed = [scored.placed for scored in self._scored] if self._stages is None else self._stages.plans
        return [entry.plan for entry in placed]

    def _sequence_lengths(self) -> tuple[int, ...]:
        plan, lengths = self._stages, []
        for layer in range(num_layers(self._family, self._model)):
            stage = None if plan is None else plan.stage_at(layer)
            lengths.append(self._shape[1] if plan is None or stage is None else plan.stages[stage].logical.shape[1])
        return tuple(lengths)

    @property
    def plan(self) -> list[PruningPlan]:
        """One plan per unit of the last prefill, in prompt order, on the host."""
        self._require_prefill()
        return [plan.to_host() for plan in self._plans]

    @property
    def report(self) -> PruningReport:
        """What the last prefill did."""
        self._require_prefill()
        layers = num_layers(self._family, self._model)
        units, lengths = [], self._sequence_lengths()
        for scored, plan in zip(self._scored, self._plans, strict=True):
            units.append(
                UnitReport(
                    sample=scored.sample,
                    tokens=plan.tokens,
                    structural=int(plan.structural.sum()),
                    counts=plan.counts,
                    retention=plan.achieved_retention(layers),
                    details=scored.details(),
                )
            )
        batch, full = self._shape
        return PruningReport(
            boundaries=self._strategy.schedule.boundaries,
            num_layers=layers,
            units=tuple(units),
            sequence_lengths=lengths,
            full_length=full,
            kv_cache_bytes=batch * kv_bytes(self._family, self._model, lengths),
            kv_cache_bytes_unpruned=batch * kv_bytes(self._family, self._model, [full] * layers),
            guard=self._expected,
        )

    def _require_prefill(self) -> None:
        if not self._scored:
            raise PruningStateError("there is no report yet: no forward with visual tokens has run in this block")
        if not all(plan.is_complete for plan in self._plans):
            raise PruningStateError(
                "there is no report: the last forward ended before the layers that decide what this strategy prunes"
            )


def refuse_nesting(family: Family, model: Any) -> None:
    """Check that no session is open on a model.

    Raises:
        PruningStateError: one is.
    """
    hooks = family.backbone(model)._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), Session) for hook in hooks):
        raise PruningStateError(
            f"this {type(model).__name__} is being pruned already; leave the outer `with prune(...)` first"
        )


def num_layers(family: Family, model: Any) -> int:
    """Decoder layers L."""
    return len(family.decoder(model).layers)  # type: ignore[arg-type]


def kv_bytes(family: Family, model: Any, lengths: Sequence[int]) -> int:
    """Bytes of keys and values of one sample after a prefill.

    Args:
        family: of the model.
        model: the model.
        lengths: rows that each decoder layer processes; a layer with a sliding window keeps the last of them only.
    """
    return cache_shape(family, model).bytes(lengths)


def check_fits(family: Family, model: Any, strategy: Strategy) -> None:
    """Check a strategy against a model before anything is installed.

    Raises:
        StrategyError: a stage lies beyond the last decoder layer, or a component needs what no unit offers.
    """
    offered = OFFERED | ({CLASS_ATTENTION} if family.class_tokens else set())
    for component in components_of(strategy):
        missing = component.needs - offered
        if missing:
            remedy = f": {NO_CLASS_TOKEN}" if CLASS_ATTENTION in missing else ""
            raise StrategyError(
                f"{component.kind} {component.component_name()!r} needs {', '.join(sorted(missing))}, which "
                f"{family.name} models do not offer; they offer {', '.join(sorted(offered))}{remedy}"
            )
    stage_widths(strategy.schedule.boundaries, num_layers(family, model))


def _refuse_full_length_arguments(*call: Any) -> None:
    kwargs: dict[str, Any] = call[2]
    if kwargs.get("labels") is not None:
        raise UnsupportedOperationError("labels= does not fit the shortened outputs of a pruned model; drop it")
    if isinstance(kwargs.get("logits_to_keep"), torch.Tensor):
        raise UnsupportedOperationError("a tensor logits_to_keep counts unpruned positions; pass an integer instead")
