"""Models with random weights whose speed is worth knowing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vflowopt.benchmark.result import Part
from vflowopt.layout import TokenLayout


@dataclass(frozen=True)
class BenchShape:
    """A model with random weights whose speed is worth knowing, with inputs for it.

    Attributes:
        name: what ``vflowopt bench --shape`` calls it.
        summary: one line.
        parts: what to measure.
        visual_tokens: of the usual input.
        build: ``build(device, dtype)`` makes the model, its weights on that device and of that dtype from the start. A
            device of ``None`` is CUDA if there is one, else the CPU; dtype ``"auto"`` is float32 on the CPU, bfloat16
            elsewhere.
        inputs: ``inputs(model, visual_tokens, text_tokens)`` makes an input of batch size 1, with an image of a size to
            which the model's own geometry gives about so many visual tokens.
        planning_layout: a layout whose planning is timed besides.
    """

    name: str
    summary: str
    parts: tuple[Part, ...]
    visual_tokens: int
    build: Callable[[str | None, str], Any]
    inputs: Callable[[Any, int, int], Mapping[str, Any]]
    planning_layout: TokenLayout | None = None
