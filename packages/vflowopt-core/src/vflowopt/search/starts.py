"""Known good strategies, brought to the budget, to begin a search with.

Sixty random draws can miss a strategy that anyone would have tried by hand. With these among the first points the
result is at least as good, on the search's own samples, as each of them.
"""

import math
from collections.abc import Iterable, Sequence

from vflowopt.components import Scorer
from vflowopt.components.mass import LogMass
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.components.stage_scoring import StageScorer
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.fastv import FastV
from vflowopt.methods.scope import SCOPE
from vflowopt.strategies.choices import NO_RESCORER
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.shipped import preset_names
from vflowopt.strategies.space import Point, SearchSpace
from vflowopt.strategies.strategy import Strategy

Start = tuple[str, Point]
"""Name, shown in the history as ``start:NAME``, and point of the unit cube."""


def known_good(space: SearchSpace) -> list[Start]:
    """Built-in starts of a space, most trusted first, without duplicates; at most eight.

    1. ``mean-attention``: plain mean attention, flat retention, no merging: the baseline that needs no search.
    2. ``divprune-mass``: DivPrune with a mass of 1, flat.
    3. ``divprune-halving``: DivPrune with a mass of 0.5, each stage keeping half of what the stage before kept, ranked
       anew by the decoder's attention.
    4. ``diverse-early``: a diversity of 0.9, each stage keeping a fifth of what the stage before kept, ranked anew.
    5. ``scope-mass``: SCOPE with a mass of 1, flat.
    6. ``diverse-halving``: a diversity of 0.9 and a mass of 0.5, each stage keeping half, ranked anew.
    7. ``FAMILY/BUDGET``: the published preset with the nearest budget (if the search has as many stages).
    8. ``calibrated-halving``: t = 1.5 and a cell of 3.5, each stage keeping half.

    Variables that the space has fixed are fixed in the starts, too.
    """
    stages = len(space.stages)
    flat, halving, early = (tuple(share**stage for stage in range(stages)) for share in (1.0, 0.5, 0.2))
    attention, diverse = CalibratedAttention(), CalibratedAttention(diversity=0.9)
    anew = None if space.fixed.get("rescorer") == NO_RESCORER else FastV()
    starts = [
        ("mean-attention", _point(space, flat, attention)),
        ("divprune-mass", _point(space, flat, DivPrune(), mass=1.0)),
        ("divprune-halving", _point(space, halving, DivPrune(), mass=0.5, rescorer=anew)),
        ("diverse-early", _point(space, early, diverse, rescorer=anew)),
        ("scope-mass", _point(space, flat, SCOPE(), mass=1.0)),
        ("diverse-halving", _point(space, halving, diverse, mass=0.5, rescorer=anew)),
        *_nearest_preset(space),
        ("calibrated-halving", _point(space, halving, CalibratedAttention(threshold=1.5), cell=3.5)),
    ]
    unique = {point: name for name, point in reversed(starts)}
    return [(name, point) for name, point in starts if unique[point] == name]


def given(space: SearchSpace, known: Iterable[Strategy | StrategyFront]) -> list[Start]:
    """The user's own starts, brought to the budget, stages and depth, as ``given-0``, ``given-1``, ...

    Of a front that does not reach the budget the nearest end is taken.

    Raises:
        StrategyError: a strategy cannot be expressed in the space.
    """
    return [(f"given-{index}", _brought(space, one)) for index, one in enumerate(known)]


def taking_turns(starts: Sequence[Sequence[Start]]) -> list[Start]:
    """Of one list of starts for every budget the first of each, then the second of each, as far as all have one."""
    return [start for turn in zip(*starts, strict=False) for start in turn]


def _brought(space: SearchSpace, known: Strategy | StrategyFront) -> Point:
    if isinstance(known, StrategyFront):
        low, high = known.budgets[-1], known.budgets[0]
        known = known.at(min(max(space.budget, low), high))
    return space.to_unit(space.impose(space.rescale(known)))


def _point(
    space: SearchSpace,
    shape: tuple[float, ...],
    scorer: Scorer,
    *,
    cell: float = 1.0,
    mass: float = 0.0,
    rescorer: StageScorer | None = None,
) -> Point:
    strategy = Strategy(
        scorer=scorer,
        schedule=Progressive.from_cumulative(space.stages, space.fit(shape)),
        recycler=GridRecycler(cell=min(cell, space.max_cell)),
        mass=LogMass(gamma=mass) if mass else None,
        rescorer=rescorer,
    )
    return space.to_unit(space.impose(strategy))


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
