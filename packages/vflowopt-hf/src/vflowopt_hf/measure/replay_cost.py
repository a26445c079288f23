"""What the host still does in a prefill that is replayed: operators and calls outside the recordings.

The device has nothing to do until the host has launched the tower. What the host does then is hidden, as long as tower
and decoder take longer than it does. So counts are told for three spans of a prefill. On a CPU a tape of operators
stands for a graph. ``python -m vflowopt_hf.measure.host_cost --graphs`` prints a table.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from vflowopt import Strategy
from vflowopt.adapter import Inputs
from vflowopt_hf.family import Family
from vflowopt_hf.graphs.recorder import Recorder, recorder_for
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.graphs.tape import Tape
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.measure.bench.inputs import repeated
from vflowopt_hf.pruning.session import Session
from vflowopt_hf.vision.graphed_tower import tower_of

T = TypeVar("T")

SPANS = ("before the tower", "between", "after the decoder")
"""Of a prefill, when the host does something else than tower and decoder."""


@dataclass
class Span:
    """What the host does in one span.

    Attributes:
        operators: calls of aten operators, be it on the device or the host.
        calls: of functions, of Python and of C.
    """

    operators: int = 0
    calls: int = 0


class _Count:
    """Counts in spans that end where tower and decoder begin, and begin where they end."""

    def __init__(self) -> None:
        self.spans = [Span() for _ in SPANS]
        self._number, self._counts = 0, False

    @contextmanager
    def on(self, mode: TorchDispatchMode | None) -> Iterator[None]:
        """Count inside the block: operators by a mode, or else calls."""
        self._number, self._counts = 0, mode is None
        with ExitStack() as stack:
            if mode is not None:
                stack.enter_context(mode)
            self._profile()
            stack.callback(sys.setprofile, None)
            yield

    def _profile(self) -> None:
        def note(_frame: Any, event: str, _argument: Any) -> None:
            self.spans[self._number].calls += event in ("call", "c_call")

        sys.setprofile(note if self._counts else None)

    @property
    def span(self) -> Span:
        """The span that has begun last."""
        return self.spans[self._number]

    def beside(self, work: Callable[..., T]) -> Callable[..., T]:
        """A function that is no part of what is counted, and ends one span."""

        @functools.wraps(work)
        def call(*args: Any, **kwargs: Any) -> T:
            sys.setprofile(None)
            with _disable_current_modes():
                result = work(*args, **kwargs)
            self._number += 1
            self._profile()
            return result

        return call


class _Operators(TorchDispatchMode):
    def __init__(self, count: _Count) -> None:
        super().__init__()
        self._count = count

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._count.span.operators += 1
        return func(*args, **(kwargs or {}))


class _Recorder:
    """Another recorder whose replays are no part of what is counted."""

    def __init__(self, recorder: Recorder, count: _Count) -> None:
        self._recorder, self._count = recorder, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        replay, result = self._recorder.record(function)
        return self._count.beside(replay), result


class _Watched(Graphs):
    """Recordings that are replayed although somebody looks on at every operator outside."""

    def reason_against(self, tensors: Any) -> str | None:
        with _disable_current_modes():
            return super().reason_against(tensors)


HEADER = ("shape", "strategy", "batch", "span", "operators, unpruned / replayed", "calls, unpruned / replayed")


def rows(
    name: str, family: Family, model: Any, one: Inputs, strategies: Mapping[str, Strategy], batches: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    """Rows of the table: for every strategy, batch and span."""
    for text, strategy in strategies.items():
        for batch in batches:
            full, ours = replay_cost(family, model, repeated(one, batch), strategy)
            for span, *found in zip(SPANS, full, ours, strict=True):
                told = (" / ".join(f"{getattr(own, n):,}" for own in found) for n in ("operators", "calls"))
                yield name, text, str(batch), span, *told


def replay_cost(family: Family, model: Any, inputs: Inputs, strategy: Strategy) -> tuple[list[Span], list[Span]]:
    """What the host does outside tower and decoder in an unpruned prefill, and outside the recordings in a pruned one.

    Args:
        family: of the model.
        model: the model.
        inputs: processor output.
        strategy: what prunes.

    Returns:
        Of the unpruned and of the pruned prefill, one entry for each of :data:`SPANS`.

    Raises:
        RuntimeError: tower or decoder cannot be recorded.
    """
    return _unpruned(family, model, inputs), _replayed(family, model, inputs, strategy)


def _unpruned(family: Family, model: Any, inputs: Inputs) -> list[Span]:
    count = _Count()
    backbone: nn.Module = family.backbone(model)
    with ExitStack() as stack:
        for part in (tower_of(backbone, family.vision_attention(model)), family.decoder(model)):
            stack.enter_context(replaced(part, "forward", count.beside(part.forward)))
        _counted(model, inputs, count)
    return count.spans


def _replayed(family: Family, model: Any, inputs: Inputs, strategy: Strategy) -> list[Span]:
    count = _Count()
    own = recorder_for(model.device)
    recorder: Any = _Recorder(Tape() if own is None else own, count)
    graphs = _Watched(recorder)
    with Session(family, model, strategy, family.pixel_statistics, graphs=graphs):
        _counted(model, inputs, count)
        if len(graphs) < len(SPANS) - 1:
            raise RuntimeError(f"tower or decoder of this {type(model).__name__} cannot be recorded")
    return count.spans


def _counted(model: Any, inputs: Inputs, count: _Count) -> None:
    with torch.no_grad():
        for _ in range(3):  # recorded at the second
            count._number = 0
            model(**inputs, use_cache=True, logits_to_keep=1)
        for mode in (_Operators(count), None):
            with count.on(mode):
                model(**inputs, use_cache=True, logits_to_keep=1)
