"""A :class:`Family` made into the core's :class:`vflowopt.adapter.Adapter`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Inputs, LoadedModel, Pruning
from vflowopt.benchmark import PARTS, Benchmark, BenchShape, Growth, Mode, Part
from vflowopt.benchmark.flow import Flow
from vflowopt.budgets.cost import CostModel, Kind, Setting
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.discovery.wrapping import unwrap
from vflowopt.search.processes import Processes
from vflowopt_hf.checkpoint.loading import load_checkpoint
from vflowopt_hf.decoder.kv_cache import num_layers
from vflowopt_hf.family import Family, statistics_of
from vflowopt_hf.graphs.recorder import recorder_for
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.requirements import check_fits
from vflowopt_hf.pruning.session import Session
from vflowopt_hf.search.evaluator import HiddenStateEvaluator
from vflowopt_hf.search.received_attention import received_attention
from vflowopt_hf.search.sample_store import MemoryLimits


class TransformersAdapter:
    """Everything the core asks of an adapter, for any :class:`Family`.

    Models may be wrapped (:mod:`vflowopt.discovery.wrapping`), for example by PEFT.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.name = family.name

    def num_layers(self, model: Any) -> int:
        """Decoder layers L."""
        return num_layers(self.family, unwrap(model))

    def statistics(self, processor: Any) -> PixelStatistics:
        """The processor's pixel statistics, or the family's usual ones without a processor."""
        return statistics_of(self.family, processor)

    def prune(
        self,
        model: Any,
        strategy: Strategy,
        *,
        processor: Any = None,
        guard: CostModel | None = None,
        graphs: bool = False,
    ) -> Pruning:
        """See :func:`vflowopt.prune`."""
        bare = unwrap(model)
        check_fits(self.family, bare, strategy)
        if guard is not None:
            guard.require(self.setting(bare), Kind.of(strategy))
        recordings = Graphs(recorder_for(next(bare.parameters()).device)) if graphs else None
        return Session(self.family, bare, strategy, self.statistics(processor), guard, model, recordings)

    def default_strategy(self, model: Any, budget: float) -> Strategy:
        """The family's best known strategy, see :meth:`vflowopt_hf.family.Family.default_strategy`."""
        return self.family.default_strategy(budget, self.num_layers(model))

    def setting(self, model: Any) -> Setting:
        """See :func:`vflowopt_hf.measure.calibrate.setting`."""
        from vflowopt_hf.measure.calibrate import setting

        return setting(self.family, unwrap(model))

    def calibrate(
        self,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Sequence[Strategy],
        *,
        max_rows: int | None = None,
        rounds: int = 5,
        processor: Any = None,
        name: str | None = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> CostModel:
        """See :class:`vflowopt_hf.measure.calibrate.Calibration`."""
        from vflowopt_hf.measure.calibrate import Calibration

        statistics = self.statistics(processor)
        return Calibration(self.family, unwrap(model), samples, strategies, statistics, max_rows).run(
            rounds, name, on_task
        )

    def evaluator(
        self,
        model: Any,
        samples: Iterable[Inputs],
        *,
        objective: str = "last-token",
        processor: Any = None,
        limits: MemoryLimits | None = None,
        batch_tokens: int = 0,
    ) -> HiddenStateEvaluator:
        """See :func:`vflowopt.optimize` and :class:`vflowopt_hf.search.evaluator.HiddenStateEvaluator`."""
        statistics = self.statistics(processor)
        return HiddenStateEvaluator(
            self.family, unwrap(model), samples, objective, statistics, limits=limits, batch_tokens=batch_tokens
        )

    def processes(self) -> AbstractContextManager[Processes]:
        """See :func:`vflowopt_hf.search.sharding.joined`."""
        from vflowopt_hf.search.sharding import joined

        return joined()

    def received_attention(
        self, model: Any, samples: Iterable[Inputs], *, processor: Any = None, ranks: bool = False
    ) -> list[ReceivedAttention]:
        """See :func:`vflowopt_hf.search.received_attention.received_attention`."""
        return received_attention(self.family, unwrap(model), samples, self.statistics(processor), ranks=ranks)

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
        batch: int = 1,
        text_tokens: int | None = None,
        details: bool = False,
        generate: Sequence[int] = (),
        modes: Sequence[Mode] = ("eager",),
    ) -> Benchmark:
        """See :class:`vflowopt_hf.measure.bench.Bench`."""
        from vflowopt_hf.measure.bench import Bench

        bench = Bench(self.family, unwrap(model), inputs, self.statistics(processor), batch, text_tokens)
        return bench.run(
            strategies, parts, rounds, planning_layout, on_task, details=details, generate=generate, modes=modes
        )

    def growth(
        self,
        sizes: Sequence[int],
        strategy: Strategy,
        *,
        rounds: int = 5,
        limit: float = 20.0,
        device: str | None = None,
        dtype: str = "auto",
        on_task: Callable[[str, int], None] = lambda _name, _tokens: None,
    ) -> Growth:
        """See :func:`vflowopt_hf.measure.bench.measure_growth`; the same for every family."""
        from vflowopt_hf.measure.bench import measure_growth

        return measure_growth(sizes, strategy, rounds=rounds, limit=limit, device=device, dtype=dtype, on_task=on_task)

    def flow(
        self,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Mapping[str, Strategy],
        *,
        processor: Any = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> Flow:
        """See :func:`vflowopt_hf.measure.flow.measure_flow`."""
        from vflowopt_hf.measure.flow import measure_flow

        return measure_flow(self.family, unwrap(model), samples, strategies, self.statistics(processor), on_task)

    def load(self, source: str | Path, **options: Any) -> LoadedModel:
        """See :func:`vflowopt_hf.checkpoint.loading.load_checkpoint`."""
        return load_checkpoint(self, self.family, source, **options)
