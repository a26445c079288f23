"""What ``vflowopt bench`` measures: a checkpoint with an image, or a random-weight model of a given shape."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflowopt.adapter import Adapter, GrowthAdapter, Inputs
from vflowopt.benchmark import PARTS, BenchShape, Part
from vflowopt.cli.console import working
from vflowopt.cli.data import Question
from vflowopt.cli.media import open_image
from vflowopt.cli.models import choose
from vflowopt.errors import InputError, UnsupportedModelError
from vflowopt.layout import TokenLayout
from vflowopt.plugins import import_adapter, installed


@dataclass(frozen=True)
class Subject:
    """A model in memory.

    Attributes:
        name: what to call it.
        summary: one line.
        adapter: of its family.
        model: the model.
        processor: its processor, if it has one.
        parts: what to measure.
        inputs: an input of batch size 1 by visual tokens and text tokens; ``None`` is the usual number.
        lengthen: whether the adapter has to bring the prompt to the number of text tokens.
        planning_layout: a layout whose planning is timed besides.
    """

    name: str
    summary: str
    adapter: Adapter
    model: Any
    processor: Any
    parts: Sequence[Part]
    inputs: Callable[[int | None, int | None], Inputs]
    lengthen: bool
    planning_layout: TokenLayout | None = None


def shapes() -> dict[str, tuple[Adapter, BenchShape]]:
    """Shapes of all adapters that can be imported."""
    found: dict[str, tuple[Adapter, BenchShape]] = {}
    for entry in installed().adapters:
        with suppress(UnsupportedModelError):  # `vflowopt adapters` tells; the shapes of the others are not to suffer
            adapter = import_adapter(entry)
            found |= {shape.name: (adapter, shape) for shape in adapter.shapes()}
    return found


def growing() -> GrowthAdapter:
    """An installed adapter that can measure growth; it is the same for all families.

    Raises:
        InputError: there is none.
    """
    for entry in installed().adapters:
        with suppress(UnsupportedModelError):
            adapter = import_adapter(entry)
            if isinstance(adapter, GrowthAdapter):
                return adapter
    raise InputError("no installed adapter can measure growth; pip install vflowopt-hf")


def from_shape(name: str, device: str | None, dtype: str) -> Subject:
    """Build the model of a shape.

    Raises:
        InputError: no such shape, or no room for it.
    """
    if device == "meta":
        raise InputError("--device meta holds no numbers, so there is nothing to time; use cpu or cuda")
    with working("importing adapters"):
        known = shapes()
    if name not in known:
        raise InputError(f"no shape is called {name!r}; there are: {', '.join(sorted(known)) or 'none installed'}")
    adapter, shape = known[name]
    with working(f"building {name}"):
        model = shape.build(device, dtype)

    def inputs(visual_tokens: int | None, text_tokens: int | None) -> Inputs:
        return shape.inputs(model, visual_tokens or shape.visual_tokens, text_tokens or 32)

    summary = f"{shape.summary}; random weights"
    return Subject(name, summary, adapter, model, None, shape.parts, inputs, False, shape.planning_layout)


def from_model(name: str, image: Path | None, prompt: str, device: str | None, dtype: str) -> Subject:
    """Load a checkpoint; its image is the given one, or the largest of those that it brings.

    Raises:
        InputError: it cannot be loaded, or there is no image.
    """
    chosen = choose(name)
    if image is not None:
        question = Question((open_image(image),), prompt)
    elif chosen.named and chosen.named.examples:
        with working(f"drawing questions of {name}"):
            examples = chosen.named.examples("test", 30, 0)
        largest = max(examples, key=lambda example: example.images[0].width * example.images[0].height)
        question = Question(largest.images, largest.question)
    else:
        raise InputError(f"{name!r} brings no images of its own: give --image")
    loaded = chosen.load(device, dtype)
    prepared = question.prepare(loaded)

    def inputs(visual_tokens: int | None, _: int | None) -> Inputs:
        if visual_tokens is not None:
            raise InputError("--visual-tokens goes with --shape; the image decides how many --model has")
        return prepared

    return Subject(
        chosen.label, "a checkpoint", loaded.adapter, loaded.model, loaded.processor, PARTS, inputs, lengthen=True
    )
