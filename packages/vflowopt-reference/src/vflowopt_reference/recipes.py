"""How long and how fast each phase of the training goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from .dense.questions import COUNTING
from .questions import DESCRIBE

PhaseName = Literal["tower", "view", "restart", "tiles", "finish", "extend", "mixers"]


@dataclass(frozen=True, slots=True)
class Phase:
    """How long and how fast one phase trains.

    Attributes:
        name: which loss and which data.
        steps: optimiser steps.
        scenes: scenes per step on one view; larger canvases get fewer, so that steps cost about the same.
        branches: most questions per scene.
        tower_rate: peak learning rate of tower, projector and patch names; 0 leaves them out.
        decoder_rate: peak learning rate of the language model; 0 leaves it out.
        warmup: steps until the peak rates.
        emphasis: loss weights of kinds of questions that would otherwise lag behind; 1 for the others.
        decay: the part of the half cosine, from the peak at 0 to the floor at 1, that the rates follow.
        left_out: kinds of questions that are not asked.
        muon: whether Muon trains the matrices; otherwise AdamW trains everything.
    """

    name: PhaseName
    steps: int
    scenes: int
    branches: int
    tower_rate: float
    decoder_rate: float
    warmup: int
    emphasis: Mapping[str, float] = field(default_factory=dict)
    decay: tuple[float, float] = (0.0, 1.0)
    left_out: frozenset[str] = frozenset()
    muon: bool = True

    @property
    def tiled(self) -> bool:
        """Whether canvases of every size are tiled, as in use; otherwise one view is all."""
        return self.name in ("tiles", "finish", "extend", "mixers")


# Looking up by shape is learned first; by color it takes a warm restart and more weight.
_LAGGING: Final = {"shape_by_color": 2.0, "digit_by_color": 2.0, DESCRIBE: 2.0}
# By both at once comes last: most of the time one of them would do.
_TOGETHER: Final = {"digit_by_both": 3.0}

FROM_NOTHING: Final = (
    Phase("tower", 1500, 12, 1, 1.5e-3, 0.0, 40),
    Phase("view", 900, 8, 16, 7e-4, 1.5e-3, 60),
    Phase("restart", 600, 8, 16, 5e-4, 1.4e-3, 40, _LAGGING),
    Phase("tiles", 300, 8, 18, 5e-4, 1.2e-3, 40, _LAGGING, (0.0, 0.5)),
    Phase("finish", 380, 8, 18, 5e-4, 1.2e-3, 40, _TOGETHER, (0.4, 1.0)),
)
"""Five phases: names of patches; questions on one view, twice; questions on canvases of every size, twice."""

WITH_DECODER: Final = (
    Phase("tower", 1300, 12, 1, 1.5e-3, 0.0, 40),
    Phase("view", 300, 8, 16, 7e-4, 1.0e-3, 40, _LAGGING),
    Phase("tiles", 500, 8, 18, 6e-4, 1.0e-3, 40, {**_LAGGING, **_TOGETHER}),
)
"""For a decoder that answers already: it has to get used to another tower."""

WITH_DECODER_LONGER: Final = (
    *WITH_DECODER,
    Phase("finish", 350, 8, 18, 6e-4, 1.0e-3, 40, {**_LAGGING, **_TOGETHER}, (0.3, 1.0)),
)
"""For visual tokens of four patches each: more to tell apart in every one of them."""

# A chart has fewer questions than other pages.
_CHARTS: Final = {"value_by_color": 1.5, "color_of_highest": 2.0}
# Counting comes last, when marks are named for certain.
_COUNTS: Final = {"color_by_value": 2.0, "count_by_color": 2.0, "count_by_shape": 2.0}

DENSE: Final = (
    Phase("tower", 120, 12, 1, 8e-4, 0.0, 20, muon=False),
    Phase("tiles", 180, 8, 18, 6e-4, 1.0e-3, 40, decay=(0.0, 0.12), muon=False),
    Phase("finish", 480, 8, 18, 6e-4, 1.0e-3, 40, _CHARTS, (0.12, 1.0), COUNTING, muon=False),
    Phase("extend", 480, 8, 18, 6e-4, 1.0e-3, 40, _COUNTS, (0.3, 1.0), muon=False),
)
"""For weights that answer already: smaller marks, more of them, and other questions."""

HYBRID: Final = (
    Phase("mixers", 200, 5, 12, 0.0, 3e-3, 30, muon=False),
    Phase("finish", 160, 4, 8, 0.0, 1e-3, 30, {**_LAGGING, **_TOGETHER}, (0.0, 0.5), muon=False),
    Phase("extend", 480, 4, 8, 0.0, 1e-3, 30, {**_LAGGING, **_TOGETHER}, (0.25, 1.0), muon=False),
)
"""For a decoder whose attention becomes recurrent: its layers learn what the other's give, then to work together."""
