"""Results as rows of a table: one per model, method and budget, over all seeds."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vflowopt.benchmark import Part
from vflowopt.compare.cells import Cell, Result
from vflowopt.compare.intervals import paired_difference, wilson
from vflowopt.figures import percent, score, seconds, tokens

COLUMNS = (
    "budget", "method", "accuracy", "95 % interval", "against unpruned", "similarity", "retention", "off by",
    "visual tokens", "KV cache", "FLOPs", "prefill", "LM prefill", "decode",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A method on a model at a budget.

    Attributes:
        method: as it was given.
        budget: average retention aimed at.
        results: one per seed.
        unpruned: of the same model.
    """

    method: str
    budget: float
    results: tuple[Result, ...]
    unpruned: Result

    @property
    def able(self) -> tuple[Result, ...]:
        """Results of the seeds with which it can be run; figures are of these."""
        return tuple(result for result in self.results if not result.cannot)

    @property
    def cannot(self) -> str:
        """Why it cannot be run with any seed; empty if it can."""
        return "" if self.able else self.results[0].cannot

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(result.accuracy for result in self.able)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy over questions; seeds are no further questions."""
        questions = len(self.able[0].right)
        return wilson(self.accuracy * questions, questions)

    @property
    def difference(self) -> tuple[float, float, float]:
        """Accuracy minus the unpruned model's with its 95 % interval, each the mean over seeds."""
        return mean_difference([(result, self.unpruned) for result in self.able])

    def relative_latency(self, part: Part) -> float | None:
        """Median time as a fraction of the unpruned model's in the same rounds, mean over seeds."""
        shares = [own / full for result in self.able for own, full in [result.latency.get(part, (0.0, 0.0))] if full]
        return statistics.fmean(shares) if shares else None

    @property
    def title(self) -> str:
        """The method, and the number of seeds if there are several."""
        seeds = f"{len(self.able)} of {len(self.results)}" if len(self.able) < len(self.results) else len(self.able)
        return self.method if len(self.results) == 1 else f"{self.method} ({seeds} seeds)"

    def texts(self) -> tuple[str, ...]:
        """The row's :data:`COLUMNS`."""
        if self.cannot:
            budget = "" if self.results[0].cell.budget is None else percent(self.budget)
            return (budget, self.method, f"cannot: {self.cannot}", *[""] * (len(COLUMNS) - 3))
        full, (low, high) = self.unpruned, self.interval
        off = max(result.deviation for result in self.able)
        mark = "" if all(result.on_budget for result in self.able) else " (!)"
        return (
            percent(self.budget),
            self.title,
            spread([result.accuracy for result in self.able], percent),
            f"{percent(low)} to {percent(high)}",
            "" if self.results == (full,) else gap(self.difference),
            spread([result.similarity for result in self.able], score),
            percent(self._mean(lambda result: result.retention), 2),
            f"{off:.2f}{mark}",
            # Of the first seed: searched schedules of different seeds have no common mean.
            tokens(self.able[0].tokens),
            percent(self._mean(lambda result: result.kv_cache_bytes) / full.kv_cache_bytes),
            percent(self._mean(lambda result: result.flops) / full.flops),
            self._time("end-to-end prefill"),
            self._time("LM prefill"),
            self._time("decode per token"),
        )

    def _mean(self, value: Callable[[Result], float]) -> float:
        return statistics.fmean(value(result) for result in self.able)

    def _time(self, part: Part) -> str:
        share = self.relative_latency(part)
        if share is None:
            return ""
        return f"{percent(share)} ({seconds(self._mean(lambda result: result.latency[part][0]))})"


def rows_of(cells: Iterable[Cell], results: Mapping[Cell, Result], names: Mapping[str, str]) -> list[Row]:
    """Rows of one model, unpruned first, then by falling budget; cells that are not finished are left out.

    Args:
        cells: in the order of the table.
        results: of those that are finished.
        names: what to call each method, by identity.
    """
    found: dict[tuple[str, float], list[Result]] = {}
    for result in (results[cell] for cell in cells if cell in results):
        found.setdefault((names[result.cell.method], result.budget), []).append(result)
    if not found:
        return []
    ordered = sorted(found.items(), key=lambda entry: -entry[0][1])
    unpruned = next(iter(found.values()))[0]  # the first cell of every model
    return [Row(method, budget, tuple(own), unpruned) for (method, budget), own in ordered]


def mean_difference(pairs: Sequence[tuple[Result, Result]]) -> tuple[float, float, float]:
    """Paired difference in accuracy between results on the same questions with its 95 % interval, each the mean."""
    each = [paired_difference(ours.right, theirs.right) for ours, theirs in pairs]
    middle, low, high = map(statistics.fmean, zip(*each, strict=True))
    return middle, low, high


def gap(difference: tuple[float, float, float]) -> str:
    """A difference in accuracy and its interval, in percentage points."""
    middle, low, high = (100 * value for value in difference)
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Mean, and lowest to highest if there are several."""
    mean = text(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ({text(min(values))} to {text(max(values))})"
