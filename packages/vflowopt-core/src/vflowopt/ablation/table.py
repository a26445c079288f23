"""A study's results as rows of a table."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vflowopt.ablation.studies import Study
from vflowopt.compare import Row
from vflowopt.compare.table import gap, mean_difference, spread
from vflowopt.figures import percent, score


@dataclass(frozen=True)
class Table:
    """A study of one model with its results.

    Attributes:
        model: label.
        study: what was asked.
        rows: unpruned first, then budget by budget.
    """

    model: str
    study: Study
    rows: Sequence[Row]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of :meth:`texts`."""
        return (
            "budget", self.study.name, "accuracy", "95 % interval", "of unpruned",
            f"against {self.study.lines[0].name}", "similarity", "search score", "retention",
        )  # fmt: skip

    def texts(self) -> Iterator[tuple[str, ...]]:
        """The rows as texts."""
        for row in self.rows:
            budget = percent(row.budget)
            if row.cannot:
                yield (budget, row.method, f"cannot: {row.cannot}", *[""] * 6)
                continue
            low, high = row.interval
            scores = [result.score for result in row.able if result.score is not None]
            yield (
                budget,
                row.method if len(row.able) == len(row.results) else row.title,
                spread([result.accuracy for result in row.able], percent),
                f"{percent(low)} to {percent(high)}",
                percent(row.accuracy / row.unpruned.accuracy) if row.unpruned.accuracy else "",
                self.against(row),
                spread([result.similarity for result in row.able], score),
                spread(scores, score) if scores else "",
                percent(statistics.fmean(result.retention for result in row.able)),
            )

    def against(self, row: Row) -> str:
        """The difference to the first row at the same budget; empty for that row and where there is none."""
        base = {
            result.cell.seed: result
            for other in self.rows
            if (other.method, other.budget) == (self.study.lines[0].name, row.budget) and other is not row
            for result in other.able
        }
        pairs = [(result, base[result.cell.seed]) for result in row.able if result.cell.seed in base]
        return gap(mean_difference(pairs)) if pairs else ""

    def spread_over_rows(self) -> Iterator[str]:
        """Per budget, how far the rows' means lie apart."""
        for budget in dict.fromkeys(row.budget for row in self.rows[1:] if not row.cannot):
            rows = [row for row in self.rows[1:] if row.budget == budget and not row.cannot]
            accuracies = [row.accuracy for row in rows]
            similarities = [statistics.fmean(result.similarity for result in row.able) for row in rows]
            yield (
                f"Over {len(rows)} sample sets at {percent(budget)}: accuracy {spread(accuracies, percent)}, "
                f"similarity {spread(similarities, score)}."
            )
