"""What the core asks of an adapter; the descriptors under which adapters register are named here, too.

The core never imports a deep learning framework: everything that touches a model sits behind these protocols.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from vflowopt.benchmark import PARTS, Benchmark, BenchShape, Growth, Mode, Part
from vflowopt.benchmark.flow import Flow
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.descriptors import AdapterDescriptor, Example, NamedModel
from vflowopt.layout import TokenLayout
from vflowopt.plans.plan import PruningPlan
from vflowopt.report import PruningReport
from vflowopt.strategies.defaults import Default
from vflowopt.strategies.specification import StrategyFor
from vflowopt.strategies.strategy import Strategy

__all__ = [
    "Adapter",
    "AdapterDescriptor",
    "DefaultingAdapter",
    "Evaluation",
    "Evaluator",
    "Example",
    "FittingAdapter",
    "FlowAdapter",
    "GrowthAdapter",
    "Inputs",
    "LoadedModel",
    "NamedModel",
    "Pruning",
    "strategy_of",
]

Inputs = Mapping[str, Any]
"""What ``model(**inputs)`` takes: the output of the model's processor."""


class Pruning(Protocol):
    """What ``prune(model, strategy)`` gives; speaks of the last prefill that was pruned.

    Nothing is pruned before it begins: with a ``with`` block, at whose end the model is as it was found, also after an
    exception; or with :meth:`start`, until :meth:`stop`. It may begin again when it has ended.
    """

    def start(self) -> Self:
        """Prune from now on, whatever becomes of this object; nothing happens if it has begun.

        Returns:
            Itself.

        Raises:
            PruningStateError: the model is being pruned already, by another call of ``prune``, or measured.
        """
        ...

    def stop(self) -> None:
        """Leave the model as it was found, after what other threads run in it; nothing happens if it has ended."""
        ...

    def __enter__(self) -> Self:
        """See :meth:`start`.

        Raises:
            PruningStateError: it has begun already, or the model is being pruned or measured.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """See :meth:`stop`."""
        ...

    @property
    def plan(self) -> list[PruningPlan]:
        """One plan per unit (image or video), in prompt order."""
        ...

    @property
    def report(self) -> PruningReport:
        """Counts, achieved retention, KV-cache bytes, sizes of K."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What one pruned prefill per sample says of a strategy.

    Attributes:
        score: mean over samples of the cosine similarity to the unpruned target (paper Eq. 8); non-finite ones
            count as -1.
        retention: achieved average retention, mean over samples, from exact counts.
        nonfinite: samples whose similarity was not finite.
        decoder_seconds: time of the prefills alone, which no search can do without; ``None`` if it was not measured.
        similarities: of each sample, in their order, -1 where not finite; empty if the evaluator does not tell.
    """

    score: float
    retention: float
    nonfinite: int = 0
    decoder_seconds: float | None = field(default=None, compare=False)
    similarities: tuple[float, ...] = ()


class Evaluator(Protocol):
    """Scores strategies on a fixed set of samples; targets and vision features are computed once, at construction."""

    num_layers: int
    """Decoder layers L."""

    units: Sequence[Sequence[TokenLayout]]
    """Layouts of each sample's units."""

    fingerprint: str
    """Identifies model and samples, so that a journal is never continued with others."""

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Score one strategy with one prefill per sample, never a decode."""
        ...


@runtime_checkable
class SamplingEvaluator(Protocol):
    """What an evaluator offers besides if the best of a search are to race on fresh samples; optional."""

    def evaluate_on(self, strategy: Strategy, samples: Sequence[int]) -> Evaluation:
        """Score one strategy on some of the samples, by their indices, rising; with their similarities."""
        ...


@runtime_checkable
class RescoringEvaluator(Protocol):
    """What an evaluator offers besides if a search is to rank anew inside the decoder; optional."""

    def can_rescore(self, stages: Sequence[int]) -> bool:
        """Whether tokens can be ranked by the decoder's own attention before each of these layers but layer 0."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """One model family, as the core sees it."""

    name: str

    def num_layers(self, model: Any) -> int:
        """Decoder layers L of the model."""
        ...

    def prune(self, model: Any, strategy: Strategy, *, processor: Any = None) -> Pruning:
        """See :func:`vflowopt.prune`."""
        ...

    def evaluator(
        self, model: Any, samples: Iterable[Inputs], *, objective: str = "last-token", processor: Any = None
    ) -> Evaluator:
        """See :func:`vflowopt.optimize`."""
        ...

    def shapes(self) -> Sequence[BenchShape]:
        """Models with random weights for ``vflowopt bench --shape``."""
        ...

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
        """Time strategies against the unpruned model, interleaved; ``on_task(done, total)`` follows each run.

        Args:
            model: the model.
            inputs: of batch size 1.
            strategies: by the name of their row.
            parts: what to time.
            rounds: measured rounds.
            planning_layout: a layout whose planning is timed besides.
            processor: of the model.
            on_task: looks on.
            batch: how many copies of the input make the batch.
            text_tokens: text tokens that the prompt is lengthened to.
            details: measure peak memory and count FLOPs and bytes of every part besides; on an accelerator, kernels.
            generate: tokens of whole answers to time; the first token's time is added.
            modes: how models run while they answer.
        """
        ...

    def load(self, source: str | Path, **options: Any) -> "LoadedModel":
        """Load a checkpoint and its processor from a path or hub id, for the command line."""
        ...


@runtime_checkable
class DefaultingAdapter(Protocol):
    """What an adapter offers besides if it knows better than the core what prunes its models best; optional."""

    def default_strategy(self, model: Any, budget: float) -> Strategy:
        """The best known strategy for a model at an average retention in (0, 1]: what a budget alone means.

        Raises:
            BudgetError: there is none for this budget.
        """
        ...


def strategy_of(adapter: Adapter, model: Any, wanted: StrategyFor) -> Strategy:
    """The strategy that was asked for (:func:`vflowopt.strategies.reading.read_strategy`), for a model.

    Raises:
        StrategyError, BudgetError: there is none.
    """
    if isinstance(wanted, Default) and isinstance(adapter, DefaultingAdapter):
        return adapter.default_strategy(model, wanted.budget)
    return wanted(adapter.num_layers(model))


@runtime_checkable
class FlowAdapter(Protocol):
    """What an adapter offers besides if ``vflowopt flow`` is to work; optional."""

    def flow(
        self,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Mapping[str, Strategy],
        *,
        processor: Any = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> Flow:
        """Discrepancy of the text tokens' hidden states after every decoder layer; ``on_task(done, total)`` follows."""
        ...


@runtime_checkable
class GrowthAdapter(Protocol):
    """What an adapter offers besides if ``vflowopt bench --growth`` is to work; optional."""

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
        """Time planning and attention capture at growing numbers of tokens; ``on_task(name, tokens)`` precedes each.

        Sizes expected to take more than ``limit`` seconds for one run are left out.
        """
        ...


@runtime_checkable
class FittingAdapter(Protocol):
    """What an adapter offers besides if methods are to be fitted to samples (``vflowopt fit``); optional."""

    def received_attention(
        self, model: Any, samples: Iterable[Inputs], *, processor: Any = None, ranks: bool = False
    ) -> Sequence[ReceivedAttention]:
        """Attention that visual tokens receive in every decoder layer of the unpruned model, of every unit.

        With ``ranks``, also the rank of what they receive from raters in each layer.
        """
        ...


class LoadedModel(Protocol):
    """A checkpoint together with its processor, as the command line uses it."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def model(self) -> Any:
        """The model."""
        ...

    @property
    def processor(self) -> Any:
        """Its processor."""
        ...

    @property
    def adapter(self) -> Adapter:
        """The adapter of its family."""
        ...

    def prepare(self, images: Sequence[Any], prompt: str, videos: Sequence[Sequence[Any]] = ()) -> Inputs:
        """Turn PIL images, videos and a question into model inputs of batch size 1.

        Args:
            images: PIL images, RGB, in prompt order.
            prompt: the question.
            videos: each the PIL frames to use, RGB and of one size; videos follow the images in the prompt.

        Raises:
            InputError: the model or its processor does not take them; says what to do.
        """
        ...

    def generate(self, inputs: Inputs, max_new_tokens: int, on_token: Callable[[], object] | None = None) -> str:
        """Greedy answer text; ``on_token()`` follows each of its tokens."""
        ...
