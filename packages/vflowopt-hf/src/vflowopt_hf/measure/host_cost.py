"""What pruning costs the host: operators, Python calls, waits and copies of a prefill and of a decoding step.

On models as deep as published ones and so narrow that nothing but the host counts: their shapes are called
``...-narrow``. ``python -m vflowopt_hf.measure.host_cost`` prints a table (``make host-cost``), with ``--graphs`` that
of prefills which are replayed (:mod:`vflowopt_hf.measure.replay_cost`).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import vflowopt
from vflowopt import Strategy
from vflowopt.adapter import Adapter, Inputs, strategy_of
from vflowopt.benchmark.timing import Spread
from vflowopt.strategies.reading import read_strategy
from vflowopt_hf.graphs.watch import tensors_in, waits
from vflowopt_hf.measure import replay_cost
from vflowopt_hf.measure.bench.inputs import repeated
from vflowopt_hf.measure.markdown import print_row
from vflowopt_hf.upstream import cache_from, with_cache

NARROW = "-narrow"
"""How the names of shapes end on which the host alone counts."""

STRATEGIES = ("llava-onevision-7b/10", "0.25")
"""A published strategy, and what a budget alone means."""

TEXT = 40
"""Text tokens of every prompt."""

_OWN = (str(Path(vflowopt.__file__ or "").parent), str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class HostCost:
    """Of one run.

    Attributes:
        operators: calls of aten operators.
        own: calls of Python functions of vflowopt.
        waits: operators that wait for the device, as their result or its shape depends on values.
        copies: from pageable host memory to an accelerator; 0 on the CPU, where there are none.
        time: seconds until the host is done, which an accelerator need not be.
    """

    operators: int
    own: int
    waits: int
    copies: int
    time: Spread


@dataclass(frozen=True)
class Compared:
    """A prefill or decoding step, unpruned and pruned."""

    unpruned: HostCost
    pruned: HostCost

    @property
    def surplus(self) -> int:
        """Operators that pruning adds."""
        return self.pruned.operators - self.unpruned.operators


class Operators(TorchDispatchMode):
    """Counts operators, those that wait, and copies from pageable memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.waits = self.copies = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator, and run it."""
        kwargs = kwargs or {}
        self.calls += 1
        self.waits += waits(func, args, kwargs)
        result = func(*args, **kwargs)
        pageable = any(
            tensor.device.type == "cpu" and tensor.ndim and not tensor.is_pinned()
            for tensor in tensors_in((args, kwargs))
        )
        arrives = any(tensor.device.type != "cpu" for tensor in tensors_in(result))
        self.copies += pageable and arrives
        return result


@contextmanager
def own_calls() -> Iterator[list[str]]:
    """The list fills with the Python functions of vflowopt that are called inside the block."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OWN):
            found.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def compare(
    adapter: Adapter, model: Any, inputs: Inputs, strategy: Strategy, rounds: int = 5
) -> tuple[Compared, Compared]:
    """A prefill of known layout, and a decoding step after it.

    Args:
        adapter: of the model's family.
        model: the model.
        inputs: processor output of any batch size.
        strategy: what prunes.
        rounds: how often each is timed, in turns.
    """
    blocks: Mapping[bool, Callable[[], AbstractContextManager[object]]] = {
        False: nullcontext,
        True: lambda: adapter.prune(model, strategy),
    }
    caches: dict[bool, Any] = {}

    def prefill(pruned: bool) -> None:
        caches[pruned] = cache_from(model(**inputs, use_cache=True, logits_to_keep=1))

    def step(pruned: bool) -> None:
        model(**with_cache(model, {"input_ids": inputs["input_ids"][:, -1:]}, caches[pruned]))

    with torch.no_grad():
        found = [_compared(task, blocks, rounds, model.device) for task in (prefill, step)]
    return found[0], found[1]


def _compared(
    task: Callable[[bool], None],
    blocks: Mapping[bool, Callable[[], AbstractContextManager[object]]],
    rounds: int,
    device: torch.device,
) -> Compared:
    counts: dict[bool, tuple[int, int, int, int]] = {}
    times: dict[bool, list[float]] = {False: [], True: []}
    for pruned, block in blocks.items():
        with block():
            task(pruned)  # the layout is known from here on
            with Operators() as operators:
                task(pruned)
            with own_calls() as own:
                task(pruned)
        counts[pruned] = operators.calls, len(own), operators.waits, operators.copies
    for _ in range(rounds):
        for pruned, block in blocks.items():
            with block():
                task(pruned)
                _synchronise(device)
                start = time.perf_counter()
                task(pruned)
                times[pruned].append(time.perf_counter() - start)
                _synchronise(device)
    costs = {pruned: HostCost(*counts[pruned], Spread.of(times[pruned])) for pruned in blocks}
    return Compared(costs[False], costs[True])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


HEADER = ("shape", "strategy", "batch", "run", "operators", "surplus", "own calls", "waits", "copies", "host ms")


def rows(
    name: str, adapter: Adapter, model: Any, one: Inputs, strategies: Mapping[str, Strategy], batches: Sequence[int],
    rounds: int,
) -> Iterator[tuple[str, ...]]:  # fmt: skip
    """Rows of the table: for every strategy and batch one of a prefill and one of a step; unpruned / pruned."""
    for text, strategy in strategies.items():
        for batch in batches:
            compared = compare(adapter, model, repeated(one, batch), strategy, rounds)
            for run, found in zip(("prefill", "step"), compared, strict=True):
                full, ours = found.unpruned, found.pruned
                milliseconds = f"{1e3 * full.time.median:.1f} / {1e3 * ours.time.median:.1f}"
                counted = (f"{full.operators:,} / {ours.operators:,}", f"{found.surplus:+,}", f"{ours.own:,}")
                waits, copies = (f"{getattr(full, n)} / {getattr(ours, n)}" for n in ("waits", "copies"))
                yield name, text, str(batch), run, *counted, waits, copies, milliseconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    from vflowopt.cli.bench_subjects import shapes

    parser = argparse.ArgumentParser(prog="python -m vflowopt_hf.measure.host_cost", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", default="", help="names, separated by commas; all that end in -narrow by default")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="presets or budgets, separated by commas")
    parser.add_argument("--batches", default="1,8", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graphs", action="store_true", help="what prefills that are replayed do outside recordings")
    options = parser.parse_args(arguments)
    known: Mapping[str, tuple[Any, Any]] = shapes()
    names = options.shapes.split(",") if options.shapes else [name for name in known if name.endswith(NARROW)]
    header = replay_cost.HEADER if options.graphs else HEADER
    print_row(header)
    print_row(["---"] * len(header))
    for name in names:
        adapter, shape = known[name]
        model = shape.build(options.device, "auto")
        inputs = shape.inputs(model, shape.visual_tokens, TEXT)
        wanted = {text: read_strategy(text) for text in options.strategies.split(",")}
        strategies = {text: strategy_of(adapter, model, strategy) for text, strategy in wanted.items()}
        batches = [int(batch) for batch in options.batches.split(",")]
        if options.graphs:
            found = replay_cost.rows(name, adapter.family, model, inputs, strategies, batches)
        else:
            found = rows(name, adapter, model, inputs, strategies, batches, options.rounds)
        for row in found:
            print_row(row)


if __name__ == "__main__":
    main()
