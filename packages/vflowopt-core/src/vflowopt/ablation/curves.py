"""Accuracy and similarity over the number of samples and of evaluations (paper Figure 4)."""

import statistics
from collections.abc import Callable, Sequence

from vflowopt.ablation.studies import Study
from vflowopt.ablation.variants import Recipe
from vflowopt.compare import Row
from vflowopt.compare.chart import Axes, Point
from vflowopt.compare.report import series
from vflowopt.figures import percent

Curve = tuple[str, Callable[[Recipe], int], Callable[[Recipe], int]]

CURVES: tuple[Curve, ...] = (
    ("samples", lambda recipe: recipe.samples, lambda recipe: recipe.evaluations),
    ("evaluations", lambda recipe: recipe.evaluations, lambda recipe: recipe.samples),
)
"""What is varied, and what has to stay as it is in the study's first row."""


def curves(model: str, study: Study, rows: Sequence[Row]) -> list[Axes]:
    """For samples and for evaluations, accuracy and similarity; a line per budget."""
    return [plot for curve in CURVES for plot in _pair(model, study, rows, curve)]


def _pair(model: str, study: Study, rows: Sequence[Row], curve: Curve) -> list[Axes]:
    """Intervals of the accuracy are Wilson's over questions, of the similarity lowest to highest over seeds."""
    what, varied, fixed = curve
    recipes = {line.name: line.variant.recipe for line in study.lines}
    base = study.lines[0].variant.recipe
    accuracy: dict[str, list[Point]] = {}
    similarity: dict[str, list[Point]] = {}
    for row in rows:
        recipe = recipes.get(row.method)
        if recipe is None or row.cannot or fixed(recipe) != fixed(base):
            continue
        name, number = percent(row.budget), float(varied(recipe))
        found = [result.similarity for result in row.able]
        accuracy.setdefault(name, []).append(Point(number, row.accuracy, *row.interval))
        similarity.setdefault(name, []).append(Point(number, statistics.fmean(found), min(found), max(found)))
    return [
        Axes(model, f"number of {what}", label, series(points), numbers=True)
        for label, points in (("accuracy", accuracy), ("similarity", similarity))
    ]
