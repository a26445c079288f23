"""Known good strategies, brought to the budget, to begin a search with.

Sixty random draws can miss a strategy that anyone would have tried by hand. With these among the first points the
result is at least as good, on the search's own samples, as each of them.
"""

import math
from collections.abc import Iterable

from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.strategies.space import Point, SearchSpace
from vflowopt.strategies.strategy import Strategy, preset_names

Start = tuple[str, Point]
"""Name, shown in the history as ``start:NAME``, and point of the unit cube."""


def known_good(space: SearchSpace) -> list[Start]:
    """Built-in starts of a space, most trusted first, without duplicates; at most six.

    1. ``mean-attention``: plain mean attention, flat retention, no merging: the baseline that needs no search.
    2. ``diverse``: the same with a diversity of 0.5.
    3. ``diverse-early``: as 2, each stage keeping a quarter of what the stage before kept.
    4. ``calibrated``: t = 1.5 and a cell of 3.5, flat retention.
    5. ``FAMILY/BUDGET``: the published preset with the nearest budget (if the search has as many stages).
    6. ``calibrated-halving``: as 4, each stage keeping half of what the stage before kept.

    Variables that the space has fixed are fixed in the starts, too.
    """
    stages = len(space.stages)
    flat, halving, early = (tuple(share**stage for stage in range(stages)) for share in (1.0, 0.5, 0.25))
    starts = [
        ("mean-attention", _point(space, flat)),
        ("diverse", _point(space, flat, diversity=0.5)),
        ("diverse-early", _point(space, early, diversity=0.5)),
        ("calibrated", _point(space, flat, threshold=1.5, cell=3.5)),
        *_nearest_preset(space),
        ("calibrated-halving", _point(space, halving, threshold=1.5, cell=3.5)),
    ]
    unique = {point: name for name, point in reversed(starts)}
    return [(name, point) for name, point in starts if unique[point] == name]


def given(space: SearchSpace, strategies: Iterable[Strategy]) -> list[Start]:
    """The user's own starts, rescaled to the budget, as ``given-0``, ``given-1``, ...

    Raises:
        StrategyError: a strategy cannot be expressed in the space.
    """
    return [(f"given-{index}", space.to_unit(space.rescale(strategy))) for index, strategy in enumerate(strategies)]


def _point(
    space: SearchSpace, shape: tuple[float, ...], *, threshold: float = 0.0, cell: float = 1.0, diversity: float = 0.0
) -> Point:
    schedule = Progressive.from_cumulative(space.stages, space.fit(shape))
    scorer = CalibratedAttention(threshold=threshold, diversity=diversity)
    recycler = GridRecycler(cell=min(cell, space.max_cell))
    return space.to_unit(space.impose(Strategy(scorer=scorer, schedule=schedule, recycler=recycler)))


def _nearest_preset(space: SearchSpace) -> list[Start]:
    """The published preset whose budget has the ratio nearest to 1 with the space's."""
    presets = {name: Strategy.preset(name) for name in preset_names()}
    fitting = {name: preset for name, preset in presets.items() if len(preset.schedule.boundaries) == len(space.stages)}
    if not fitting:
        return []
    nearest = min(fitting, key=lambda name: abs(math.log(_budget(fitting[name]) / space.budget)))
    return [(nearest, space.to_unit(space.impose(space.rescale(fitting[nearest]))))]


def _budget(preset: Strategy) -> float:
    return (preset.provenance and preset.provenance.budget) or 1.0
