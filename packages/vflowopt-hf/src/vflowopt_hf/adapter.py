"""A :class:`Family` made into the core's :class:`vflowopt.adapter.Adapter`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Inputs, LoadedModel, Pruning
from vflowopt.benchmark import PARTS, Benchmark, BenchShape, Part
from vflowopt.flow import Flow
from vflowopt.stage_scoring import ReceivedAttention
from vflowopt_hf.evaluator import HiddenStateEvaluator
from vflowopt_hf.family import Family
from vflowopt_hf.loading import load_checkpoint
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.received import received_attention
from vflowopt_hf.session import Session, check_fits, num_layers


class TransformersAdapter:
    """Everything the core asks of an adapter, for any :class:`Family`."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.name = family.name

    def num_layers(self, model: Any) -> int:
        """Decoder layers L."""
        return num_layers(self.family, model)

    def statistics(self, processor: Any) -> PixelStatistics:
        """The processor's pixel statistics, or the family's usual ones without a processor."""
        return self.family.pixel_statistics if processor is None else PixelStatistics.of(processor)

    def prune(self, model: Any, strategy: Strategy, *, processor: Any = None) -> AbstractContextManager[Pruning]:
        """See :func:`vflowopt.prune`."""
        check_fits(self.family, model, strategy)
        return Session(self.family, model, strategy, self.statistics(processor)).installed()

    def evaluator(
        self, model: Any, samples: Iterable[Inputs], *, objective: str = "last-token", processor: Any = None
    ) -> HiddenStateEvaluator:
        """See :func:`vflowopt.optimize`."""
        return HiddenStateEvaluator(self.family, model, samples, objective, self.statistics(processor))

    def received_attention(
        self, model: Any, samples: Iterable[Inputs], *, processor: Any = None
    ) -> list[ReceivedAttention]:
        """See :func:`vflowopt_hf.received.received_attention`."""
        return received_attention(self.family, model, samples, self.statistics(processor))

    def shapes(self) -> Sequence[BenchShape]:
        """The family's random-weight models for benchmarks."""
        return self.family.shapes()

    def benchmark(
        self,
        model: Any,
        inputs: Inputs,
        strategies: Mapping[str, Strategy],
        *,
        parts: Sequence[Part] = PARTS,
        rounds: int = 5,
        planning_layout: TokenLayout | None = None,
        processor: Any = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> Benchmark:
        """See :func:`vflowopt_hf.bench.benchmark`."""
        from vflowopt_hf.bench import Bench

        bench = Bench(self.family, model, inputs, self.statistics(processor))
        return bench.run(strategies, parts, rounds, planning_layout, on_task)

    def flow(
        self,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Mapping[str, Strategy],
        *,
        processor: Any = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> Flow:
        """See :func:`vflowopt_hf.flow.measure_flow`."""
        from vflowopt_hf.flow import measure_flow

        return measure_flow(self.family, model, samples, strategies, self.statistics(processor), on_task)

    def load(self, source: str | Path, **options: Any) -> LoadedModel:
        """See :func:`vflowopt_hf.loading.load_checkpoint`."""
        return load_checkpoint(self, source, **options)
