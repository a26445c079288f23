"""Measure what a model's prefills cost here, and what pruning adds to them: the core's cost model."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from transformers import DynamicCache

from vflowopt import Strategy
from vflowopt.adapter import Inputs
from vflowopt.benchmark.timing import Timing, interleaved
from vflowopt.budgets.cost import CostModel, Kind, PruningCost, Setting
from vflowopt.budgets.curve_fitting import fit_curve
from vflowopt.budgets.lengths import SampleSize
from vflowopt.errors import InputError
from vflowopt.search.result import installed_versions
from vflowopt_hf.decoder.kv_cache import num_layers
from vflowopt_hf.decoder.padding import without_padding
from vflowopt_hf.decoder.staged import StagedDecoder
from vflowopt_hf.family import Family
from vflowopt_hf.measure.bench.tasks import synchronised
from vflowopt_hf.measure.bench.yardstick import device_name
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prefill import plan_units, require_finite
from vflowopt_hf.plans.stage_plan import StagePlan, attention_use
from vflowopt_hf.pruning.requirements import check_fits
from vflowopt_hf.pruning.session import refuse_nesting
from vflowopt_hf.search.sample import Sample, observe_sample
from vflowopt_hf.upstream import with_cache

LENGTHS = 6
"""Different lengths at which the decoder is measured."""

SPAN = 32
"""The longest of them, in parts of the shortest."""

SIZES = 4
"""Different samples, by visual tokens, on which pruning itself is measured."""

Task = Callable[[], object]


def setting(family: Family, model: Any) -> Setting:
    """What the model's times depend on besides its input."""
    config: Any = family.decoder(model).config
    layers, dtype = num_layers(family, model), str(model.dtype).removeprefix("torch.")
    first = config.per_layer_config[0]
    sizes = (
        f"{layers} layers of {config.hidden_size}, MLP {getattr(config, 'intermediate_size', None)}, "
        f"{config.num_attention_heads}/{getattr(first, 'num_key_value_heads', None)} heads, "
        f"{config._attn_implementation} attention"
    )
    device = device_name(model.device, model.dtype).removesuffix(f", {dtype}")
    return Setting(f"{type(model).__name__}: {sizes}", device, dtype, layers)


@dataclass(frozen=True, eq=False)
class Subject:
    """One sample to measure on.

    Attributes:
        inputs: of the whole model, without padding.
        sample: its unpruned forward.
    """

    inputs: Inputs
    sample: Sample

    @classmethod
    def of(cls, inputs: Inputs, sample: Sample) -> "Subject":
        """A sample and what it was observed with."""
        return cls(without_padding(inputs), sample)

    @cached_property
    def size(self) -> SampleSize:
        """Its rows and visual tokens."""
        return SampleSize(self.sample.queries, tuple(unit.context.layout.tokens for unit in self.sample.prefill.units))


class Calibration:
    """What is measured of one model, as tasks that can be interleaved.

    Args:
        family: of the model.
        model: the model; left as it was found.
        samples: processor outputs of batch size 1, best of different sizes: of more than four, four are used.
        strategies: one of each kind whose own work is to be known; none twice.
        statistics: pixel normalisation to invert for patch entropy.
        max_rows: longest prefill to measure; by default the longest sample's.

    Raises:
        InputError: no samples, one without visual tokens, or ``max_rows`` too short to fit anything to.
        StrategyError, BudgetError: a strategy does not fit the model or a sample.
        PruningStateError: the model is being pruned.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Sequence[Strategy],
        statistics: PixelStatistics,
        max_rows: int | None = None,
    ) -> None:
        refuse_nesting(family, model)
        for strategy in strategies:
            check_fits(family, model, strategy)
        self._family, self._model = family, model
        self._decoder: Any = family.decoder(model)
        self._layers = num_layers(family, model)
        self._strategies = {Kind.of(strategy): strategy for strategy in strategies}
        observed = (
            Subject.of(inputs, observe_sample(family, model, index, inputs, statistics))
            for index, inputs in enumerate(samples)
        )
        self._subjects = _spread(observed)
        if not self._subjects:
            raise InputError("calibrating needs at least one sample with an image; none was given")
        longest = max(subject.size.rows for subject in self._subjects) if max_rows is None else max_rows
        if longest < LENGTHS:
            raise InputError(f"the longest prefill to calibrate with must have {LENGTHS} tokens or more, not {longest}")
        self._lengths = _geometric(longest)

    def run(self, rounds: int, name: str | None = None, on_task: Callable[[int, int], None] | None = None) -> CostModel:
        """Measure everything in interleaved rounds, and fit.

        Args:
            rounds: measured rounds, after one that warms up.
            name: what to call the model.
            on_task: called with tasks done and tasks to do after each.
        """
        tasks = {name: synchronised(task, self._model.device) for name, task in self._tasks().items()}
        total, done = len(tasks) * (rounds + 1), 0

        def tell(_: str) -> None:
            nonlocal done
            done += 1
            if on_task:
                on_task(done, total)

        with torch.no_grad():
            took = interleaved(tasks, rounds, tell)
        here = setting(self._family, self._model)
        return CostModel(
            model=name,
            architecture=here.architecture,
            device=here.device,
            dtype=here.dtype,
            num_layers=here.num_layers,
            decoder=fit_curve([((rows,), took[_plain(rows)].wall.median) for rows in self._lengths], floor=True),
            outside=fit_curve([(each.size.units, self._outside(each, took)) for each in self._subjects]),
            pruning=tuple(
                PruningCost(
                    kind=kind,
                    curve=fit_curve([(each.size.units, self._added(each, kind, took)) for each in self._subjects]),
                )
                for kind in self._strategies
            ),
            versions=installed_versions(),
        )

    def _tasks(self) -> dict[str, Task]:
        rows = {*self._lengths}
        tasks: dict[str, Task] = {}
        for subject in self._subjects:
            rows.add(subject.size.rows)
            tasks[_whole(subject)] = partial(self._prefill, subject)
            for kind, strategy in self._strategies.items():
                rows.update(subject.size.lengths(strategy.schedule, self._layers))
                tasks[_pruned(subject, kind)] = partial(self._pruned_prefill, subject, strategy)
        return tasks | {_plain(count): self._random(count) for count in sorted(rows)}

    def _outside(self, subject: Subject, took: dict[str, Timing]) -> float:
        """Seconds of a prefill that the decoder does not take."""
        whole, decoder = took[_whole(subject)].wall.values, took[_plain(subject.size.rows)].wall.values
        return _median(all_of_it - own for all_of_it, own in zip(whole, decoder, strict=True))

    def _added(self, subject: Subject, kind: Kind, took: dict[str, Timing]) -> float:
        """Seconds of a pruned prefill beyond those of a decoder whose layers simply process as many rows."""
        lengths = subject.size.lengths(self._strategies[kind].schedule, self._layers)
        layers = zip(*(took[_plain(count)].wall.values for count in lengths), strict=True)
        own = [sum(of_round) / self._layers for of_round in layers]
        pruned = took[_pruned(subject, kind)].wall.values
        return _median(whole - decoder for whole, decoder in zip(pruned, own, strict=True))

    def _random(self, rows: int) -> Task:
        """A prefill of the decoder alone; what stands in the rows does not matter."""
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(1, rows, self._decoder.config.hidden_size, generator=generator)
        return partial(self._decode, {"inputs_embeds": drawn.to(self._model.device, self._model.dtype)})

    def _decode(self, call: dict[str, Any]) -> object:
        cache = DynamicCache(config=self._decoder.config)
        return self._decoder(**with_cache(self._decoder, call, cache))

    def _prefill(self, subject: Subject) -> object:
        return self._model(**{**subject.inputs, "use_cache": True, "logits_to_keep": 1})

    def _pruned_prefill(self, subject: Subject, strategy: Strategy) -> object:
        """What ``prune`` adds to a forward, and the decoder; nothing is remembered from the run before."""
        prefill, call = subject.sample.prefill, subject.sample.call
        units = [replace(unit, context=unit.context.fresh()) for unit in prefill.units]
        scored = plan_units(strategy, units, wait=False)
        plan = StagePlan.of(strategy, scored, prefill.table.on(call["inputs_embeds"].device))
        use = attention_use(strategy)
        with StagedDecoder.of_plan(self._decoder, plan, self._family.take_residuals, use).installed():
            output = self._decode(call)
        require_finite(scored)
        return output


def _spread(subjects: Iterable[Subject]) -> list[Subject]:
    """At most :data:`SIZES`, spread over what they differ in: the number of visual tokens."""
    by_size = {subject.size.units: subject for subject in subjects}
    ordered = [by_size[units] for units in sorted(by_size, key=sum)]
    if len(ordered) <= SIZES:
        return ordered
    return [ordered[round(step * (len(ordered) - 1) / (SIZES - 1))] for step in range(SIZES)]


def _geometric(longest: int) -> list[int]:
    """Different lengths up to the longest."""
    ratio = min(SPAN, longest) ** (1 / (LENGTHS - 1))
    return sorted({round(longest / ratio**step) for step in range(LENGTHS)})


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def _plain(rows: int) -> str:
    return f"{rows} rows"


def _whole(subject: Subject) -> str:
    return f"whole prefill of {subject.size.units} visual tokens"


def _pruned(subject: Subject, kind: Kind) -> str:
    return f"{subject.size.units} visual tokens pruned by {kind}"
