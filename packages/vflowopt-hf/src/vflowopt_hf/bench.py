"""Time the parts of a pruned prefill against the unpruned one, interleaved in one process."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vflowopt import PruningReport, Strategy, TokenLayout
from vflowopt.adapter import Inputs
from vflowopt.benchmark import UNPRUNED, Benchmark, BenchRow, Part
from vflowopt.errors import InputError
from vflowopt.timing import Timing, interleaved
from vflowopt_hf.evaluator import HiddenStateEvaluator, Sample
from vflowopt_hf.family import Family
from vflowopt_hf.flops import prefill_flops
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.prefill import ScoredUnit, plan_units
from vflowopt_hf.session import Session, check_fits, kv_bytes
from vflowopt_hf.stage_plan import StagePlan, observed_layers
from vflowopt_hf.staged import StagedDecoder

DECODE_STEPS = 8
"""Tokens of one decode measurement."""

Task = Callable[[], object]


@dataclass(eq=False)
class Candidate:
    """One row of the benchmark: a strategy, or ``None`` for the unpruned model."""

    name: str
    strategy: Strategy | None
    scored: list[ScoredUnit]
    report: PruningReport | None = None
    cache: Any = None


class Bench:
    """Benchmarks one model on one input of batch size 1.

    Args:
        family: the model's family.
        model: the model.
        inputs: processor output with at least one image.
        statistics: pixel normalisation to invert for patch entropy.

    Raises:
        InputError: batch size other than 1, or nothing visual.
    """

    def __init__(self, family: Family, model: Any, inputs: Inputs, statistics: PixelStatistics) -> None:
        self._family, self._model, self._inputs, self._statistics = family, model, dict(inputs), statistics
        self._decoder = family.decoder(model)
        self._tower, self._tower_call = self._find_tower()
        self._sample: Sample = HiddenStateEvaluator(family, model, [inputs], "last-token", statistics).samples[0]

    def run(
        self,
        strategies: Mapping[str, Strategy],
        parts: Sequence[Part],
        rounds: int,
        planning_layout: TokenLayout | None = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> Benchmark:
        """Measure ``parts`` for every strategy and the unpruned model.

        Raises:
            StrategyError, BudgetError: a strategy does not fit the model or the input.
        """
        if UNPRUNED in strategies:
            raise InputError(f"a strategy cannot be called {UNPRUNED!r}")
        candidates = [Candidate(UNPRUNED, None, [])]
        for name, strategy in strategies.items():
            check_fits(self._family, self._model, strategy)
            candidates.append(Candidate(name, strategy, plan_units(strategy, self._sample.prefill.units)))
        tasks = {(c.name, part): task for c in candidates for part in parts if (task := self._task(c, part))}
        if planning_layout is not None and strategies:
            tasks["", "planning"] = _planning(next(iter(strategies.values())), planning_layout, self._model.device)
        if "decode per token" in parts:
            for candidate in candidates:
                self._prefill(candidate)
        done, total = 0, len(tasks) * (rounds + 1)

        def after(_: str) -> None:
            nonlocal done
            done += 1
            if on_task:
                on_task(done, total)

        named = {f"{name}/{part}": self._synchronised(task) for (name, part), task in tasks.items()}
        with torch.no_grad():
            measured = interleaved(named, rounds, after)
        times = dict(zip(tasks, measured.values(), strict=True))
        return Benchmark(
            device=self._device(),
            rows=tuple(self._row(candidate, times) for candidate in candidates),
            planning=times.get(("", "planning")),
            planning_tokens=0 if planning_layout is None else planning_layout.tokens,
        )

    def _task(self, candidate: Candidate, part: Part) -> Task | None:
        """What to time; ``None`` where a part does not apply."""
        strategy, units = candidate.strategy, self._sample.prefill.units
        if part == "vision tower":
            return functools.partial(_call, self._tower, *self._tower_call) if strategy is None else None
        if part == "LM prefill":
            return functools.partial(self._decode_prompt, candidate)
        if part == "end-to-end prefill":
            return functools.partial(self._prefill, candidate)
        if part == "decode per token":
            return functools.partial(self._decode, candidate)
        if strategy is None:
            return None
        if part == "importance":
            counts = [strategy.schedule.counts(unit.context.layout.tokens)[0] for unit in units]
            return lambda: [
                strategy.scorer.score_retaining(unit.context.fresh(), count)
                for unit, count in zip(units, counts, strict=True)
            ]
        importance = [scored.score.importance for scored in candidate.scored]
        contexts = [unit.context for unit in units]
        return lambda: [strategy.plan(i, seen.layout, seen) for i, seen in zip(importance, contexts, strict=True)]

    def _decode_prompt(self, candidate: Candidate) -> None:
        """The decoder's prefill with a fresh cache."""
        config: Any = self._decoder.config
        call = {**self._sample.call, "use_cache": True, "past_key_values": DynamicCache(config=config)}
        if candidate.strategy is None:
            self._decoder(**call)
            return
        device = self._sample.target.device
        plan = StagePlan.of(candidate.strategy, candidate.scored, self._sample.prefill.present, device)
        observed = observed_layers(candidate.strategy)
        with StagedDecoder(self._decoder, lambda _: plan, self._family.take_residuals, observed).installed():
            self._decoder(**call)

    def _prefill(self, candidate: Candidate) -> None:
        """Pixels to first logits; leaves the cache."""
        with torch.no_grad(), self._pruning(candidate) as session:
            output = self._model(**{**self._inputs, "use_cache": True, "logits_to_keep": 1})
            if candidate.report is None and session is not None:
                candidate.report = session.report
        candidate.cache = output.past_key_values

    def _decode(self, candidate: Candidate) -> None:
        """Some steps on the candidate's cache, which grows by them."""
        token = self._inputs["input_ids"][:, -1:]
        with self._pruning(candidate):
            for _ in range(DECODE_STEPS):
                self._model(input_ids=token, past_key_values=candidate.cache, use_cache=True)

    def _pruning(self, candidate: Candidate) -> Any:
        if candidate.strategy is None:
            return nullcontext()
        return Session(self._family, self._model, candidate.strategy, self._statistics).installed()

    def _row(self, candidate: Candidate, times: Mapping[tuple[str, Part], Timing]) -> BenchRow:
        if candidate.strategy is not None and candidate.report is None:
            self._prefill(candidate)
        own = {part: _per_step(part, timing) for (name, part), timing in times.items() if name == candidate.name}
        layers, full = len(self._decoder.layers), int(self._sample.target.shape[1])  # type: ignore[arg-type]
        visual = sum(unit.context.layout.tokens for unit in self._sample.prefill.units)
        report = candidate.report
        if report is None:
            lengths, retention, tokens = (full,) * layers, 1.0, (visual,)
            cached = kv_bytes(self._family, self._model, [full] * layers)
        else:
            stages = zip(*(unit.counts for unit in report.units), strict=True)
            lengths, retention, cached = report.sequence_lengths, report.retention, report.kv_cache_bytes
            tokens = (visual, *(sum(counts) for counts in stages))
        return BenchRow(
            name=candidate.name,
            retention=retention,
            tokens=tokens,
            lengths=lengths,
            flops=prefill_flops(self._decoder.config, lengths),
            kv_cache_bytes=cached,
            times=own,
        )

    def _find_tower(self) -> tuple[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
        """The vision tower and how the model calls it."""
        tower: nn.Module = self._model.get_encoder(modality="image")
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        handle = tower.register_forward_pre_hook(lambda _m, a, k: calls.append((a, dict(k))), with_kwargs=True)
        try:
            with torch.no_grad():
                self._model(**{**self._inputs, "use_cache": False, "logits_to_keep": 1})
        finally:
            handle.remove()
        if not calls:
            raise InputError("the input has no image, so there is nothing to benchmark")
        return tower, calls[0]

    def _synchronised(self, task: Task) -> Task:
        """On an accelerator, wait until the work is done."""
        if self._model.device.type != "cuda":
            return task

        def run() -> None:
            task()
            torch.cuda.synchronize(self._model.device)

        return run

    def _device(self) -> str:
        device = self._model.device
        name = f"CPU, {torch.get_num_threads()} threads"
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        return f"{name}, {str(self._model.dtype).removeprefix('torch.')}"


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


def _planning(strategy: Strategy, layout: TokenLayout, device: torch.device) -> Task:
    generator = torch.Generator().manual_seed(0)
    importance: Tensor = torch.rand(layout.tokens, generator=generator).to(device)
    return lambda: strategy.plan(importance, layout)


def _per_step(part: Part, timing: Timing) -> Timing:
    return timing.scaled(1 / DECODE_STEPS) if part == "decode per token" else timing
