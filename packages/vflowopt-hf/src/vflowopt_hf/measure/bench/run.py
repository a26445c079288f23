"""A benchmark of strategies on one model and input: what is run, in which order, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Inputs
from vflowopt.benchmark import UNPRUNED, Benchmark, BenchRow, Memory, Part, Work
from vflowopt.benchmark.timing import Timing, interleaved
from vflowopt.errors import InputError
from vflowopt_hf.decoder.contents import key_value_bytes, state_bytes
from vflowopt_hf.family import Family
from vflowopt_hf.measure.bench.inputs import lengthened, repeated, single, text_length
from vflowopt_hf.measure.bench.memory import MemoryMeter
from vflowopt_hf.measure.bench.observed import observe
from vflowopt_hf.measure.bench.tasks import DECODE_STEPS, Candidate, Subject, Task, synchronised
from vflowopt_hf.measure.bench.work import counted
from vflowopt_hf.measure.bench.yardstick import device_name, rates, yardsticks
from vflowopt_hf.measure.flops import prefill_flops
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.stage_plan import StagePlan
from vflowopt_hf.pruning.requirements import check_fits

Key = tuple[str, Part]
"""Name of the row, and part."""


class Bench:
    """Benchmarks one model on one input.

    Args:
        family: the model's family.
        model: the model.
        inputs: processor output of batch size 1 with at least one image.
        statistics: pixel normalisation to invert for patch entropy.
        batch: how many copies of the input make the batch.
        text_tokens: text tokens that the prompt is lengthened to; ``None`` leaves it as it is.

    Raises:
        InputError: batch size other than 1, nothing visual, padding between tokens, or a prompt that cannot be
            lengthened so.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        inputs: Inputs,
        statistics: PixelStatistics,
        batch: int = 1,
        text_tokens: int | None = None,
    ) -> None:
        placeholders = family.placeholder_ids(model)
        inputs = single(inputs)
        if text_tokens is not None:
            inputs = lengthened(inputs, placeholders, text_tokens)
        self._batch, self._text_tokens = batch, text_length(inputs, placeholders)
        inputs = repeated(inputs, batch)
        self._subject = Subject(family, model, inputs, statistics, observe(family, model, inputs, statistics))

    def run(
        self,
        strategies: Mapping[str, Strategy],
        parts: Sequence[Part],
        rounds: int,
        planning_layout: TokenLayout | None = None,
        on_task: Callable[[int, int], None] | None = None,
        *,
        details: bool = False,
    ) -> Benchmark:
        """Measure ``parts`` for every strategy and the unpruned model.

        Args:
            strategies: by the name of their row.
            parts: what to time.
            rounds: measured rounds.
            planning_layout: a layout whose planning is timed besides.
            on_task: called with tasks done and tasks to do after each.
            details: besides, in runs of their own that are not timed, peak memory, FLOPs and bytes of every part.

        Raises:
            StrategyError, BudgetError: a strategy does not fit the model or the input.
        """
        subject, model = self._subject, self._subject.model
        if UNPRUNED in strategies:
            raise InputError(f"a strategy cannot be called {UNPRUNED!r}")
        for strategy in strategies.values():
            check_fits(subject.family, model, strategy)
        with torch.no_grad():
            candidates = [Candidate(subject, name, one) for name, one in [(UNPRUNED, None), *strategies.items()]]
            tasks = {(c.name, part): task for c in candidates for part in parts if (task := c.task(part))}
            if "decode per token" in parts:
                for candidate in candidates:
                    candidate.fill_cache()
            others: dict[str, Task] = {}
            if planning_layout is not None and strategies:
                others["planning"] = _planning(next(iter(strategies.values())), planning_layout, model.device)
            if details:
                others |= yardsticks(model.device, model.dtype)
            named = {f"{name}/{part}": synchronised(task, model.device) for (name, part), task in tasks.items()}
            named |= {f"/{name}": synchronised(task, model.device) for name, task in others.items()}
            tell = _Teller(on_task, len(named) * (rounds + 1) + 2 * len(tasks) * details)
            measured = interleaved(named, rounds, lambda _: tell())
            named.clear()  # and with them what the yardsticks hold
            others.clear()
            times = {key: measured[f"{key[0]}/{key[1]}"] for key in tasks}
            meter = MemoryMeter(model.device)
            memory = _memory(meter, tasks, tell) if details else {}
            work = self._work(candidates, tasks, tell) if details else {}
            rows = [self._row(candidate, times, memory, work) for candidate in candidates]
        return Benchmark(
            device=device_name(model.device, model.dtype),
            rows=tuple(rows),
            batch=self._batch,
            text_tokens=self._text_tokens,
            planning=measured.get("/planning"),
            planning_tokens=0 if planning_layout is None else planning_layout.tokens,
            rates=rates(model.device, measured) if details else None,
            memory_source=meter.source if details else "",
            weights=sum(weight.nbytes for weight in model.parameters()),
        )

    def _work(self, candidates: Sequence[Candidate], tasks: Mapping[Key, Task], tell: "_Teller") -> dict[Key, Any]:
        """Counts of every part, and of the decoder's layers."""
        steps = {candidate.name: candidate.decode_step for candidate in candidates}
        found = {}
        for (name, part), task in tasks.items():
            found[name, part] = counted(steps[name] if part == "decode per token" else task)
            tell()
        return found

    def _row(
        self, candidate: Candidate, times: Mapping[Key, Timing], memory: Mapping[Key, Memory], work: Mapping[Key, Any]
    ) -> BenchRow:
        cache, plan = candidate.decode_prompt()
        lengths, tokens, retention = self._retained(candidate, plan)
        flops = self._batch * prefill_flops(self._subject.decoder, lengths)
        all_pairs = self._batch * prefill_flops(self._subject.decoder, lengths, causal=False)
        prefill = work.get((candidate.name, "LM prefill"))
        masked = all_pairs - flops if prefill is not None and prefill.layer_flops == all_pairs else 0
        with_decoder: tuple[Part, ...] = ("LM prefill", "end-to-end prefill")
        by_layer = key_value_bytes(cache)
        return BenchRow(
            name=candidate.name,
            retention=retention,
            tokens=tokens,
            lengths=lengths,
            flops=flops,
            flops_all_pairs=all_pairs,
            kv_cache_bytes=sum(by_layer),
            times={part: _per_step(part, timing) for (name, part), timing in times.items() if name == candidate.name},
            kv_cache_by_layer=by_layer,
            state_bytes=state_bytes(cache),
            flops_by_torch=None if prefill is None else prefill.layer_flops,
            work={
                part: Work(count.flops - (masked if part in with_decoder else 0), count.moved)
                for (name, part), count in work.items()
                if name == candidate.name
            },
            memory={part: used for (name, part), used in memory.items() if name == candidate.name},
        )

    def _retained(self, candidate: Candidate, plan: StagePlan | None) -> tuple[tuple[int, ...], tuple[int, ...], float]:
        """Rows of each layer and visual tokens of each stage of one sample, and average retention."""
        layers, observed = len(self._subject.decoder.layers), self._subject.observed  # type: ignore[arg-type]
        own = [unit for unit in observed.prefill.units if unit.sample == 0]
        visual = sum(unit.context.layout.tokens for unit in own)
        if candidate.strategy is None:
            return (observed.queries,) * layers, (visual,), 1.0
        placed = [unit.placed for unit in candidate.scored] if plan is None else plan.plans
        plans = [one.plan for one in placed if one.sample == 0]
        stages = [None if plan is None else plan.stage_at(layer) for layer in range(layers)]
        lengths = tuple(
            observed.queries if plan is None or stage is None else int(plan.stages[stage].logical.shape[1])
            for stage in stages
        )
        counts = tuple(sum(of_stage) for of_stage in zip(*(one.counts for one in plans), strict=True))
        retained = sum(one.achieved_retention(layers) * one.tokens for one in plans)
        return lengths, (visual, *counts), retained / visual


class _Teller:
    """Counts tasks for whoever looks on."""

    def __init__(self, on_task: Callable[[int, int], None] | None, total: int) -> None:
        self._on_task, self._done, self._total = on_task, 0, total

    def __call__(self) -> None:
        self._done += 1
        if self._on_task:
            self._on_task(self._done, self._total)


def _memory(meter: MemoryMeter, tasks: Mapping[Key, Task], tell: _Teller) -> dict[Key, Memory]:
    found = {}
    for key, task in tasks.items():
        used = meter.measure(task)
        if used is not None:
            found[key] = used
        tell()
    return found


def _planning(strategy: Strategy, layout: TokenLayout, device: torch.device) -> Task:
    generator = torch.Generator().manual_seed(0)
    importance: Tensor = torch.rand(layout.tokens, generator=generator).to(device)
    return lambda: strategy.draft(importance, layout)


def _per_step(part: Part, timing: Timing) -> Timing:
    return timing.scaled(1 / DECODE_STEPS) if part == "decode per token" else timing
