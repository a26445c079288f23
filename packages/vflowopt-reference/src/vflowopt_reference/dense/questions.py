"""The questions about dense pictures, in the only wording the model knows."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ..questions import Question
from ..vocabulary import COLORS
from .picture import Picture
from .words import PLURALS

KINDS: Final = (
    "digit_by_both",
    "value_by_color",
    "number_by_both",
    "color_of_highest",
    "color_by_value",
)
"""The kinds the model is measured on."""
COUNTING: Final = frozenset({"count_by_color", "count_by_shape"})
"""Trained as well, not measured: they were not learned in the time there was."""
MOST: Final = 6
"""Objects that are counted: of what there is more, nobody asks how many."""


def questions(picture: Picture) -> list[Question]:
    """Every question that is well-posed for the picture."""
    match picture.page:
        case "crowd":
            return _crowd(picture)
        case "chart":
            return _chart(picture)
        case "ledger":
            return _ledger(picture)


def _crowd(picture: Picture) -> list[Question]:
    found = [Question("digit_by_both", f"what digit is on the {o.color} {o.shape}?", o.digits) for o in picture.items]
    colors, shapes = Counter(o.color for o in picture.items), Counter(o.shape for o in picture.items)
    for color in COLORS:
        if colors[color] <= MOST:
            asked = f"how many {color} objects?"
            found.append(Question("count_by_color", asked, str(colors[color])))
    for plural, shape in PLURALS.items():
        if shapes[shape] <= MOST:
            found.append(Question("count_by_shape", f"how many {plural}?", str(shapes[shape])))
    return found


def _chart(picture: Picture) -> list[Question]:
    found, values = list[Question](), Counter(o.digits for o in picture.items)
    for bar in picture.items:
        found.append(Question("value_by_color", f"what is the value of the {bar.color} bar?", bar.digits))
        if values[bar.digits] == 1:
            found.append(Question("color_by_value", f"what color is the bar of value {bar.digits}?", bar.color))
    highest = max(values)
    if values[highest] == 1:
        (bar,) = (o for o in picture.items if o.digits == highest)
        found.append(Question("color_of_highest", "what color is the highest bar?", bar.color))
    return found


def _ledger(picture: Picture) -> list[Question]:
    return [
        Question("number_by_both", f"what number is at the {o.color} {o.shape}?", " ".join(o.digits))
        for o in picture.items
    ]
