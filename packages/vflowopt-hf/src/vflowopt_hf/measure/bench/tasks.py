"""The parts of a prefill as tasks: what is timed, measured and counted, for one strategy or the unpruned model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt import Strategy
from vflowopt.adapter import Inputs
from vflowopt.benchmark import Part
from vflowopt.errors import InputError
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.decoder.staged import StagedDecoder
from vflowopt_hf.family import Family
from vflowopt_hf.measure.bench.groups import Counts, of_each_unit
from vflowopt_hf.measure.bench.hollow import HollowDecoder
from vflowopt_hf.measure.bench.modes import EAGER, Way
from vflowopt_hf.measure.bench.observed import Observed
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prefill import ScoredUnit, plan_units
from vflowopt_hf.plans.stage_plan import StagePlan, attention_use
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.upstream import cache_from, with_cache
from vflowopt_hf.vision.capture import TorchAttention

DECODE_STEPS = 8
"""Tokens of one decode measurement."""

Task = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Run:
    """What is timed, measured and counted.

    Attributes:
        task: what runs.
        within: makes the block in which it runs; entering and leaving it is not timed.
    """

    task: Task
    within: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self) -> object:
        """All of it."""
        with self.within():
            return self.task()


@dataclass(frozen=True, eq=False)
class Subject:
    """What all rows of a benchmark have in common.

    Attributes:
        family: the model's family.
        model: the model.
        inputs: of the whole batch.
        statistics: pixel normalisation to invert for patch entropy.
        observed: its unpruned forward.
    """

    family: Family
    model: Any
    inputs: Inputs
    statistics: PixelStatistics
    observed: Observed

    @cached_property
    def decoder(self) -> nn.Module:
        """The text decoder."""
        return self.family.decoder(self.model)

    @property
    def batch(self) -> int:
        """Samples."""
        return int(self.inputs["input_ids"].shape[0])

    @cached_property
    def placeholders(self) -> list[int]:
        """Ids of the tokens that stand for something visual."""
        return sorted(self.family.placeholder_ids(self.model).values())

    @property
    def contexts(self) -> list[UnitContext]:
        """Of all units."""
        return [unit.context for unit in self.observed.prefill.units]


@dataclass(frozen=True, eq=False)
class KnownEntropy(UnitContext):
    """A unit whose patch entropy has been computed before."""

    known: Tensor

    @property
    def entropy(self) -> Tensor:
        """Patch entropy, float32 [views, patches]."""
        return self.known

    @classmethod
    def of(cls, context: UnitContext) -> "KnownEntropy":
        """The unit, its entropy computed now."""
        return cls(**{field.name: getattr(context, field.name) for field in fields(context)}, known=context.entropy)


class Candidate:
    """One row: a strategy, or ``None`` for the unpruned model.

    Args:
        subject: what it runs on.
        name: of the row.
        strategy: what to prune by.
    """

    def __init__(self, subject: Subject, name: str, strategy: Strategy | None) -> None:
        self.name, self.strategy, self._subject = name, strategy, subject
        self.scored: list[ScoredUnit] = []
        self._cache: Any = None
        if strategy is not None:
            self.scored = plan_units(strategy, subject.observed.prefill.units)

    @property
    def uses_entropy(self) -> bool:
        """Whether the strategy looks at pixels."""
        return self.strategy is not None and any("entropy" in part.needs for part in components_of(self.strategy))

    def run(self, part: Part) -> Run | None:
        """What to run for a part; ``None`` where it does not apply, or cannot be told apart from another."""
        if part == "end-to-end prefill":
            return Run(self._prefill, partial(self._ready, 0, EAGER))
        if part == "decode per token":
            return Run(self._decode, self.pruning)
        task = self._task(part)
        return None if task is None else Run(task)

    def _task(self, part: Part) -> Task | None:
        """Of a part of the model."""
        if part == "LM prefill":
            return self.decode_prompt
        if self.strategy is None:
            alone: dict[Part, Task] = {"vision tower": self._subject.observed.encode, "entropy": self._entropy}
            return alone.get(part)
        own: dict[Part, Task | None] = {
            "attention capture": self._scoring(self.strategy),
            "entropy": self._entropy if self.uses_entropy else None,
            "planning": self._planning(self.strategy),
            "gathers": self._gathers(self.strategy),
        }
        return own.get(part)

    def decode_prompt(self) -> tuple[Any, StagePlan | None]:
        """The decoder's prefill: its cache, and what was pruned."""
        decoder, observed = self._subject.decoder, self._subject.observed
        call = observed.decoder_call(decoder)
        plan = self.stage_plan()
        if self.strategy is None:
            output = decoder(**call)
        else:
            use, take = attention_use(self.strategy), self._subject.family.take_residuals
            with StagedDecoder.of_plan(decoder, plan, take, use).installed():
                output = decoder(**call)
        return cache_from(output), plan

    def stage_plan(self) -> StagePlan | None:
        """A fresh plan of the decoder's forward; ``None`` if nothing is dropped."""
        table = self._subject.observed.prefill.table
        return None if self.strategy is None else StagePlan.of(self.strategy, self.scored, table)

    def fill_cache(self) -> None:
        """Leave the cache that decoding continues."""
        Run(self._prefill, self.pruning)()

    def once(self, part: Part) -> Run | None:
        """The same, of decoding a single step: what a run needs is told of this."""
        return Run(partial(self._decode, 1), self.pruning) if part == "decode per token" else self.run(part)

    def answer(self, tokens: int, way: Way) -> Run:
        """A greedy answer of so many tokens by each sample; of none, pixels to first logits."""
        return Run(partial(self._generate, tokens, way) if tokens else self._forward, partial(self._ready, tokens, way))

    def first_answers(self, tokens: int, way: Way) -> Run:
        """Answers until everything is made that later ones reuse."""
        return Run(lambda: [self._generate(tokens, way) for _ in range(way.calls)], partial(self.pruning, way))

    def pruning(self, way: Way = EAGER) -> AbstractContextManager[object]:
        """The block in which the model is pruned by the strategy."""
        subject = self._subject
        return way.pruned(subject.family, subject.model, self.strategy, subject.statistics)

    @contextmanager
    def _ready(self, tokens: int, way: Way) -> Iterator[None]:
        """The same, after the first prompts in it, given as for an answer of so many tokens."""
        calls = way.calls if self.strategy is not None or way.prefills else 0  # else there is nothing to remember
        with self.pruning(way):
            for _ in range(calls):
                if tokens:
                    self._generate(1, way)
                else:
                    self._forward()
            yield

    def _scoring(self, strategy: Strategy) -> Task:
        units = [KnownEntropy.of(unit) if self.uses_entropy else unit for unit in self._subject.contexts]

        def score(context: UnitContext, counts: Counts) -> Tensor:
            importance: Tensor = strategy.scorer.score_retaining(context, counts[0]).importance
            return importance

        def run() -> list[Tensor]:
            sources = TorchAttention.all_fresh(unit.attention for unit in units)
            fresh = [replace(unit, attention=source) for unit, source in zip(units, sources, strict=True)]
            found = of_each_unit(strategy, _counts(strategy, fresh), score)
            return [found[unit] for unit in fresh]

        return run

    def _planning(self, strategy: Strategy) -> Task:
        """All of it that is done before the LLM."""
        units = self._subject.contexts
        known = {unit: one.score.importance for unit, one in zip(units, self.scored, strict=True)}

        def plan(context: UnitContext, counts: Counts, importance: Tensor) -> Tensor:
            draft = strategy.draft(importance, context.layout, context, counts, wait=False)
            return draft.plan.kept[-1] if draft.plan.kept else importance

        def run() -> list[Tensor]:
            found = of_each_unit(strategy, _counts(strategy, units), plan, known)
            return [found[unit] for unit in units]

        return run

    def _gathers(self, strategy: Strategy) -> Task | None:
        """The hooks around layers that compute nothing; ``None`` where stages are decided by what layers compute."""
        if strategy.stage_scorer is not None:
            return None
        subject, hollow = self._subject, HollowDecoder(self._subject.decoder, self._subject.observed.layer_calls)
        take = subject.family.take_residuals

        def run() -> Tensor:
            plan = self.stage_plan()
            call = {**subject.observed.decoder_call(hollow), "logits_to_keep": 0}  # all rows, which are to be seen
            with StagedDecoder.of_plan(hollow, plan, take).installed():
                hidden: Tensor = hollow(**call)
            return hidden

        return run

    def _entropy(self) -> list[Tensor]:
        return [context.fresh().entropy for context in self._subject.contexts]

    def _forward(self) -> Any:
        """Pixels to first logits."""
        return self._subject.model(**{**self._subject.inputs, "use_cache": True, "logits_to_keep": 1})

    def _prefill(self) -> Any:
        """The same; leaves the cache."""
        output = self._forward()
        self._cache = cache_from(output)
        return output

    def _decode(self, steps: int = DECODE_STEPS) -> Any:
        output, model = None, self._subject.model
        call = with_cache(model, {"input_ids": self._subject.inputs["input_ids"][:, -1:]}, self._cache)
        for _ in range(steps):
            output = model(**call)
        return output

    def _generate(self, tokens: int, way: Way) -> Tensor:
        """Token ids [batch, prompt and answer].

        Raises:
            InputError: the model stopped early.
        """
        subject = self._subject
        ids: Tensor = subject.model.generate(
            **subject.inputs,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            suppress_tokens=subject.placeholders,  # as part of an answer they would be taken for images
            **way.options,
        )
        given = ids.shape[1] - subject.inputs["input_ids"].shape[1]
        if given != tokens:
            raise InputError(f"generate gave {given} tokens where {tokens} were asked for; see generation_config")
        return ids


def _counts(strategy: Strategy, units: Iterable[UnitContext]) -> dict[UnitContext, Counts]:
    return {unit: tuple(strategy.schedule.counts(unit.layout.tokens)) for unit in units}


def synchronised(task: Task, device: torch.device) -> Task:
    """On an accelerator, a task that returns when its work is done."""
    if device.type != "cuda":
        return task

    def run() -> object:
        result = task()
        torch.cuda.synchronize(device)
        return result

    return run
