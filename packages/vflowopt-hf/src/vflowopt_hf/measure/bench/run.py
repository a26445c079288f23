"""A benchmark of strategies on one model and input: what is run, in which order, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Inputs
from vflowopt.benchmark import UNPRUNED, Benchmark, Mode, Part
from vflowopt.benchmark.timing import Timing, interleaved
from vflowopt.errors import InputError
from vflowopt_hf.family import Family
from vflowopt_hf.measure.bench.answers import Answers
from vflowopt_hf.measure.bench.inputs import lengthened, repeated, single, text_length
from vflowopt_hf.measure.bench.kernels import can_profile, profiled
from vflowopt_hf.measure.bench.memory import MemoryMeter
from vflowopt_hf.measure.bench.modes import find_ways
from vflowopt_hf.measure.bench.observed import observe
from vflowopt_hf.measure.bench.rows import Found, row
from vflowopt_hf.measure.bench.tasks import Candidate, Run, Subject, Task, synchronised
from vflowopt_hf.measure.bench.work import counted
from vflowopt_hf.measure.bench.yardstick import device_name, rates, yardsticks
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.requirements import check_fits

T = TypeVar("T")


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
        self._text_tokens = text_length(inputs, placeholders)
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
        generate: Sequence[int] = (),
        modes: Sequence[Mode] = ("eager",),
    ) -> Benchmark:
        """Measure ``parts`` for every strategy and the unpruned model.

        Args:
            strategies: by the name of their row.
            parts: what to time.
            rounds: measured rounds.
            planning_layout: a layout whose planning is timed besides.
            on_task: called with tasks done and tasks to do after each.
            details: besides, in runs of their own that are not timed, peak memory, FLOPs and bytes of every part, and
                on CUDA its kernels.
            generate: tokens of whole answers to time; 1 is added.
            modes: how the model runs while it answers.

        Raises:
            InputError: no such mode on this device, or an answer without tokens.
            StrategyError, BudgetError: a strategy does not fit the model or the input.
        """
        subject, model = self._subject, self._subject.model
        if UNPRUNED in strategies:
            raise InputError(f"a strategy cannot be called {UNPRUNED!r}")
        for strategy in strategies.values():
            check_fits(subject.family, model, strategy)
        ways = find_ways(modes, model.device) if generate else []
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for way in ways:
                stack.enter_context(way.around(model))
            candidates = [Candidate(subject, name, one) for name, one in [(UNPRUNED, None), *strategies.items()]]
            timed = {f"{one.name}/{part}": run for one in candidates for part in parts if (run := one.run(part))}
            once = {f"{one.name}/{part}": run for one in candidates for part in parts if (run := one.once(part))}
            answers = Answers(candidates, ways, generate, model.device)
            profiles = once | answers.first_tokens if can_profile(model.device) else {}
            if not details:
                once, profiles = {}, {}
            if "decode per token" in parts:
                for candidate in candidates:
                    candidate.fill_cache()
            timed |= answers.runs
            if planning_layout is not None and strategies:
                timed["/planning"] = Run(_planning(next(iter(strategies.values())), planning_layout, model.device))
            if details:
                timed |= {f"/{name}": Run(task) for name, task in yardsticks(model.device, model.dtype).items()}
            tell = _Teller(on_task, answers.total + len(timed) * (rounds + 1) + 2 * len(once) + len(profiles))
            answers.begin(tell)
            times = _timed(timed, rounds, model.device, tell)
            timed.clear()  # and with them what the yardsticks hold
            meter = MemoryMeter(model.device)
            memory, work = _each(once, meter.measure, tell), _each(once, counted, tell)
            kernels = _each(profiles, partial(profiled, device=model.device), tell)
            rows = []
            for one in candidates:
                found = Found(
                    times=_by_part(one.name, parts, times),
                    memory=_by_part(one.name, parts, memory),
                    work=_by_part(one.name, parts, work),
                    kernels=_by_part(one.name, parts, kernels),
                    generation=answers.of(one.name, times, kernels),
                )
                rows.append(row(subject, one, found))
        return Benchmark(
            device=device_name(model.device, model.dtype),
            rows=tuple(rows),
            batch=subject.batch,
            text_tokens=self._text_tokens,
            planning=times.get("/planning"),
            planning_tokens=0 if planning_layout is None else planning_layout.tokens,
            rates=rates(model.device, times) if details else None,
            memory_source=meter.source if details else "",
            weights=sum(weight.nbytes for weight in model.parameters()),
        )


class _Teller:
    """Counts tasks for whoever looks on."""

    def __init__(self, on_task: Callable[[int, int], None] | None, total: int) -> None:
        self._on_task, self._done, self._total = on_task, 0, total

    def __call__(self) -> None:
        self._done += 1
        if self._on_task:
            self._on_task(self._done, self._total)


def _timed(runs: Mapping[str, Run], rounds: int, device: torch.device, tell: Callable[[], None]) -> dict[str, Timing]:
    """Time runs by turns; on an accelerator each until its work is done."""
    tasks = {name: synchronised(run.task, device) for name, run in runs.items()}
    return interleaved(tasks, rounds, lambda _: tell(), within=lambda name: runs[name].within())


def _each(runs: Mapping[str, Run], measure: Callable[[Task], T | None], tell: Callable[[], None]) -> dict[str, T]:
    """What is measured of each run, as far as it can be; not of entering its block."""
    found = {}
    for name, run in runs.items():
        with run.within():
            one = measure(run.task)
        if one is not None:
            found[name] = one
        tell()
    return found


def _by_part(name: str, parts: Sequence[Part], found: Mapping[str, T]) -> dict[Part, T]:
    """What was found of one row."""
    return {part: found[key] for part in parts if (key := f"{name}/{part}") in found}


def _planning(strategy: Strategy, layout: TokenLayout, device: torch.device) -> Task:
    generator = torch.Generator().manual_seed(0)
    importance: Tensor = torch.rand(layout.tokens, generator=generator).to(device)
    return lambda: strategy.draft(importance, layout)
