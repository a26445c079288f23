"""What a prefill costs on one machine, pruned or not: a model calibrated by measurements, its own file format.

It answers two questions before anything is computed: whether pruning pays for an input (the guard of
:func:`vflowopt.prune`), and which average retention meets a latency (:class:`vflowopt.budgets.latency.PrefillLatency`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from vflowopt.budgets.curve import Curve
from vflowopt.budgets.lengths import SampleSize, batch_lengths
from vflowopt.errors import CostError, VFlowOptError, named
from vflowopt.files.documents import parse_document, read_text
from vflowopt.files.output import FileKind, Output
from vflowopt.report import BreakEven
from vflowopt.strategies.strategy import Strategy, components_of
from vflowopt.values import Value

FORMAT: Literal["vflowopt/cost/1"] = "vflowopt/cost/1"
COST_FILE = FileKind.json("a cost model", FORMAT)


@dataclass(frozen=True)
class Setting:
    """What times depend on besides the input.

    Attributes:
        architecture: class and sizes of the model, and how it computes attention; weights do not matter.
        device: the device; of a CPU also the threads.
        dtype: of the weights.
        num_layers: decoder layers L.
    """

    architecture: str
    device: str
    dtype: str
    num_layers: int


class Kind(Value):
    """What the work of pruning depends on besides the number of tokens.

    Attributes:
        scorer: its name.
        recycler: its name, if there is one.
        needs: what both read (:attr:`vflowopt.components.Component.needs`), sorted.
    """

    refusal: ClassVar[type[VFlowOptError]] = CostError

    scorer: str
    recycler: str | None = None
    needs: tuple[str, ...] = ()

    @classmethod
    def of(cls, strategy: Strategy) -> "Kind":
        """Of a strategy's components."""
        recycler = None if strategy.recycler is None else strategy.recycler.component_name()
        needs = {need for component in components_of(strategy) for need in component.needs}
        return cls(scorer=strategy.scorer.component_name(), recycler=recycler, needs=tuple(sorted(needs)))

    def covers(self, other: "Kind") -> bool:
        """Whether the other reads and does no more, so that it costs at most as much."""
        alike = self.scorer == other.scorer and other.recycler in (None, self.recycler)
        return alike and set(other.needs) <= set(self.needs)

    def __str__(self) -> str:
        return f"{self.scorer} (reads {', '.join(self.needs) or 'nothing'}), recycler {self.recycler or 'none'}"


class PruningCost(Value):
    """What pruning itself takes for one image or video, by its visual tokens: capture, scoring, planning, gathers.

    Attributes:
        kind: what was measured.
        curve: seconds by visual tokens N of one unit.
    """

    refusal: ClassVar[type[VFlowOptError]] = CostError

    kind: Kind
    curve: Curve


class CostModel(Value):
    """Times of one model on one machine (``vflowopt calibrate``).

    Attributes:
        format: the file format's version.
        model: what the model was called.
        architecture: see :class:`Setting`, as for the next three.
        device: likewise.
        dtype: likewise.
        num_layers: likewise.
        decoder: seconds of the decoder by rows, if all layers process as many; one layer takes the L-th part. For a
            batch what depends on rows counts once per sample.
        outside: seconds of the rest of a prefill (vision tower, projector, language-model head) by visual tokens of one
            image or video.
        pruning: what pruning itself takes, for each kind of strategy that was measured.
        versions: of the packages that were measured.
    """

    refusal: ClassVar[type[VFlowOptError]] = CostError

    format: Literal["vflowopt/cost/1"] = FORMAT
    model: str | None = None
    architecture: str
    device: str
    dtype: str
    num_layers: PositiveInt
    decoder: Curve
    outside: Curve = Curve()
    pruning: tuple[PruningCost, ...]
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def setting(self) -> Setting:
        """What was calibrated."""
        return Setting(self.architecture, self.device, self.dtype, self.num_layers)

    def require(self, setting: Setting, kind: Kind) -> None:
        """Check that it knows the times of this setting, and of this kind of strategy.

        Raises:
            CostError: names everything that differs.
        """
        own, other = asdict(self.setting), asdict(setting)
        wrong = [f"{name} {own[name]!r}, not {other[name]!r}" for name in own if own[name] != other[name]]
        if wrong:
            raise CostError(
                f"this cost model was calibrated for {'; '.join(wrong)}; calibrate it here: vflowopt calibrate"
            )
        self.pruning_seconds(kind, ())

    def prefill_seconds(self, lengths: Sequence[float], units: Sequence[int] = (), batch: int = 1) -> float:
        """A prefill without the work of pruning.

        Args:
            lengths: rows of each decoder layer.
            units: visual tokens of each image and video of all samples.
            batch: samples.
        """
        return self.outside.total(units) + self.decoder.over(lengths, batch)

    def pruning_seconds(self, kind: Kind, units: Sequence[int]) -> float:
        """The work of pruning itself: of the measured kinds that cover this one, the cheapest.

        Args:
            kind: of the strategy.
            units: visual tokens of each image and video.

        Raises:
            CostError: no such kind was measured.
        """
        known = [cost.curve.total(units) for cost in self.pruning if cost.kind.covers(kind)]
        if not known:
            measured = "; ".join(str(cost.kind) for cost in self.pruning)
            raise CostError(
                f"this cost model has not measured {kind}, only {measured or 'nothing'}; calibrate with that strategy: "
                f"vflowopt calibrate --strategy ..."
            )
        return min(known)

    def pruned_seconds(self, lengths: Sequence[float], kind: Kind, units: Sequence[int], batch: int = 1) -> float:
        """A prefill that is pruned, all of it.

        Args:
            lengths: rows of each decoder layer.
            kind: of the strategy.
            units: visual tokens of each image and video of all samples.
            batch: samples.

        Raises:
            CostError: no strategy of this kind was measured.
        """
        return self.prefill_seconds(lengths, units, batch) + self.pruning_seconds(kind, units)

    def break_even(self, strategy: Strategy, samples: Sequence[SampleSize], queries: int) -> BreakEven:
        """What one forward is expected to take, pruned and not.

        Args:
            strategy: what prunes.
            samples: of the batch.
            queries: rows of the unpruned forward, padding included.

        Raises:
            CostError: no strategy of this kind was measured.
            StrategyError: a stage lies beyond the last layer.
        """
        units = [tokens for sample in samples for tokens in sample.units]
        full, pruned = batch_lengths(samples, strategy.schedule, self.num_layers, queries)
        return BreakEven(
            self.prefill_seconds(full, units, len(samples)),
            self.pruned_seconds(pruned, Kind.of(strategy), units, len(samples)),
        )

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the file, whole or not at all.

        Args:
            path: the file; another cost model in it is replaced.
            force: replace whatever is there.

        Returns:
            The path.

        Raises:
            OutputError: it cannot be written, or something else is there.
        """
        return Output.claim(path, COST_FILE, force=force).write(self.to_json())

    @classmethod
    def read(cls, source: "CostModel | str | Path") -> "CostModel":
        """A cost model as it is, or from the path of its file.

        Raises:
            CostError: it is neither, or the file cannot be read or does not hold a cost model.
        """
        if isinstance(source, CostModel):
            return source
        if not isinstance(source, (str, Path)):
            raise CostError(f"{source!r} is no cost model: give a CostModel or the path of its file")
        return cls.load(source)

    @classmethod
    def load(cls, path: str | Path) -> "CostModel":
        """Read a file.

        Raises:
            CostError: it cannot be read, or does not hold a cost model.
        """
        remedy = "give one that vflowopt calibrate wrote"
        try:
            text = read_text(path)
        except ValueError as error:
            raise CostError(f"cannot read the cost model {named(path)}: {error}; {remedy}") from error
        try:
            return cls.model_validate(parse_document(text, FORMAT))
        except ValueError as error:
            raise CostError(f"{named(path)} is not a {FORMAT} file: {error}; {remedy}") from error
