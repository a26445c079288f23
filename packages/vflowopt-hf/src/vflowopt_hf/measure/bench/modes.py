"""How a model runs while it answers: one entry per mode, everything else about answers is the same for all."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from vflowopt import Progressive, Strategy
from vflowopt.benchmark import Mode
from vflowopt.components.baselines import UniformGrid
from vflowopt.errors import InputError
from vflowopt_hf.family import Family
from vflowopt_hf.graphs.recorder import recorder_for
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.measure.bench.layers import CompiledLayers
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.session import Session

EVERYTHING = Strategy(scorer=UniformGrid(), schedule=Progressive(stages=(0,), retention=(1.0,)))
"""Retains all visual tokens, and looks at nothing to decide that."""

Block = AbstractContextManager[object]


def pruned(family: Family, model: Any, strategy: Strategy | None, statistics: PixelStatistics) -> Block:
    """The block in which a model is pruned as usual; ``None`` prunes nothing."""
    return nullcontext() if strategy is None else Session(family, model, strategy, statistics)


def recorded(family: Family, model: Any, strategy: Strategy | None, statistics: PixelStatistics) -> Block:
    """The block in which prompts are recorded and replayed; ``None`` prunes nothing there, either."""
    graphs = Graphs(recorder_for(model.device))
    return Session(family, model, strategy or EVERYTHING, statistics, graphs=graphs)


@dataclass(frozen=True, eq=False)
class Way:
    """One mode.

    Attributes:
        mode: its name.
        options: further arguments of ``generate``.
        pruned: makes the block of one answer, as :func:`pruned` does.
        calls: answers in one block until everything is made that later ones in it reuse, such as what follows from a
            prompt's layout; the next one is timed.
        prefills: whether it changes how prompts are processed, and not only how answers are decoded.
        around: given the model, the block in which all answers of this mode are measured.
        devices: types of the devices on which it is what its name says; empty for all.
    """

    mode: Mode
    options: Mapping[str, Any] = field(default_factory=dict)
    pruned: Callable[[Family, Any, Strategy | None, PixelStatistics], Block] = pruned
    calls: int = 1
    prefills: bool = False
    around: Callable[[Any], Block] = nullcontext
    devices: tuple[str, ...] = ()


@contextmanager
def compiled_code(model: Any) -> Iterator[None]:
    """Inside the block there may be compiled code, and ``generate`` may leave some on the model; not after it."""
    before = dict(vars(model))
    torch.compiler.reset()  # code of other shapes would count against the limit of recompilations
    try:
        yield
    finally:
        for name in set(vars(model)) - set(before):
            delattr(model, name)
        vars(model).update(before)
        torch.compiler.reset()


EAGER = Way("eager")

REPLAYED = 3
"""A shape is seen, recorded, and replayed; the first replay hands the graph to the device."""

STATIC = {"cache_implementation": "static"}

WAYS: dict[Mode, Callable[[], Way]] = {
    "eager": lambda: EAGER,
    "compiled": lambda: Way("compiled", STATIC, around=compiled_code, devices=("cuda", "xpu")),
    "layers": lambda: Way(
        "layers", pruned=CompiledLayers().pruned, prefills=True, around=compiled_code, devices=("cuda", "xpu")
    ),
    "graphs": lambda: Way("graphs", pruned=recorded, calls=REPLAYED, prefills=True, devices=("cuda",)),
    "graphs-compiled": lambda: Way(
        "graphs-compiled", STATIC, recorded, calls=REPLAYED, prefills=True, around=compiled_code, devices=("cuda",)
    ),
}
"""Each makes its mode for one measurement."""


def find_ways(modes: Iterable[str], device: torch.device) -> list[Way]:
    """The modes of these names.

    Raises:
        InputError: there is no such mode, or it is none on this device.
    """
    found, known = [], {str(mode): make for mode, make in WAYS.items()}
    for mode in modes:
        if mode not in known:
            raise InputError(f"there is no mode {mode!r}; modes are {', '.join(known)}")
        way = known[mode]()
        if way.devices and device.type not in way.devices:
            raise InputError(
                f"mode {mode!r} is for {' or '.join(way.devices)}, not for {device.type}; leave it out, or use "
                f"another device"
            )
        found.append(way)
    return found
