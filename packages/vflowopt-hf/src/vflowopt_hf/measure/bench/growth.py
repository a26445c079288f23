"""How planning and attention capture grow with the number of tokens; needs no model."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from vflowopt import Strategy, TokenLayout
from vflowopt.benchmark import Growth, GrowthPoint, GrowthSeries, Memory
from vflowopt.benchmark.timing import Moment, Spread, Timing
from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.measure.bench.memory import MemoryMeter
from vflowopt_hf.measure.bench.tasks import Task, synchronised
from vflowopt_hf.measure.bench.yardstick import device_name
from vflowopt_hf.measure.devices import find_device, find_dtype
from vflowopt_hf.vision.capture import TorchAttention

HEADS, HEAD_DIM, VIEW = 16, 72, 729
"""Of a SigLIP-so400m tower at 384 pixels."""


@dataclass(eq=False)
class Size:
    """One task at one size.

    Attributes:
        tokens: the size.
        held: bytes of what the task works on.
        prepare: makes that; not timed.
        took: what each measured round took.
        memory: around the round that warms up.
    """

    tokens: int
    held: int
    prepare: Callable[[], Task]
    took: list[Moment] = field(default_factory=list)
    memory: Memory | None = None

    def point(self) -> GrowthPoint:
        """What is known of it."""
        if not self.took:
            return GrowthPoint(self.tokens, held=self.held)
        timing = Timing(Spread.of([one.wall for one in self.took]), Spread.of([one.cpu for one in self.took]))
        return GrowthPoint(self.tokens, timing, self.memory, self.held)


def measure_growth(
    sizes: Sequence[int],
    strategy: Strategy,
    *,
    rounds: int,
    limit: float,
    device: str | None = None,
    dtype: str = "auto",
    on_task: Callable[[str, int], None] = lambda _name, _tokens: None,
    clock: Callable[[], Moment] = Moment.now,
) -> Growth:
    """Time planning, and capture of attention within one view and within views of 729 patches, at growing sizes.

    Args:
        sizes: numbers of tokens; of patches for capture.
        strategy: gives threshold, counts and recycling.
        rounds: measured rounds, after one that warms up and measures memory; sizes take turns.
        limit: seconds; sizes from the first on that is expected to take longer, by those before it, are left out.
        device: by default CUDA if there is one, else the CPU.
        dtype: of query and key; ``"auto"`` is float32 on the CPU, bfloat16 elsewhere.
        on_task: called with name and size of what is to run.
        clock: gives the time.

    Raises:
        InputError: no such device or dtype.
    """
    place = find_device(device)
    kind = find_dtype(dtype, place, torch.bfloat16)
    threshold, ascending = float(getattr(strategy.scorer, "threshold", 0.0)), sorted(sizes)
    tasks: dict[str, list[Size]] = {
        "planning": [_planning(strategy, tokens, place) for tokens in ascending],
        f"attention capture, views of {VIEW}": [
            _capture(math.ceil(tokens / VIEW), VIEW, threshold, place, kind) for tokens in ascending
        ],
        "attention capture, one view": [_capture(1, tokens, threshold, place, kind) for tokens in ascending],
    }
    meter = MemoryMeter(place)
    with torch.no_grad():
        for name, own in tasks.items():
            feasible = list(_warmed_up(own, limit, meter, place, clock, partial(on_task, name)))
            for turn in range(rounds):
                for size in reversed(feasible) if turn % 2 else feasible:
                    on_task(name, size.tokens)
                    size.took.append(_timed(synchronised(size.prepare(), place), clock))
    series = tuple(GrowthSeries(name, tuple(size.point() for size in own)) for name, own in tasks.items())
    return Growth(device_name(place, kind), series, limit, meter.source)


def _warmed_up(
    sizes: Iterable[Size],
    limit: float,
    meter: MemoryMeter,
    device: torch.device,
    clock: Callable[[], Moment],
    on_task: Callable[[int], None],
) -> Iterable[Size]:
    """Sizes that are not expected to take too long, each run twice."""
    known: list[tuple[int, float]] = []
    for size in sizes:
        if known and _expected(known, size.tokens) > limit:
            return
        on_task(size.tokens)
        task = synchronised(size.prepare(), device)
        size.memory = meter.measure(task)
        known.append((size.tokens, _timed(task, clock).wall))  # now that it is warm
        yield size


def _expected(known: Sequence[tuple[int, float]], tokens: int) -> float:
    """Seconds at a larger size: as between the last two, or by the square after a single one."""
    (last, took), power = known[-1], 2.0
    if len(known) > 1:
        first, before = known[-2]
        power = math.log(took / before) / math.log(last / first)
    return float(took * (tokens / last) ** power)


def _timed(task: Task, clock: Callable[[], Moment]) -> Moment:
    start = clock()
    task()
    end = clock()
    return Moment(end.wall - start.wall, end.cpu - start.cpu)


def _planning(strategy: Strategy, tokens: int, device: torch.device) -> Size:
    """The plan of one square grid with about so many tokens."""
    side = math.isqrt(tokens)
    row, column = np.indices((side, -(-tokens // side)), dtype=np.int64).reshape(2, -1)[:, :tokens]
    layout = TokenLayout(np.stack([np.zeros_like(row), row, column], axis=1))

    def prepare() -> Task:
        generator = torch.Generator().manual_seed(tokens)
        importance = torch.rand(tokens, generator=generator).to(device)
        return lambda: strategy.draft(importance, layout)

    return Size(tokens, 4 * tokens, prepare)


def _capture(views: int, patches: int, threshold: float, device: torch.device, dtype: torch.dtype) -> Size:
    """Both passes over captured query and key."""
    shape = (views, HEADS, patches, HEAD_DIM)

    def prepare() -> Task:
        generator = torch.Generator(device).manual_seed(patches)
        query, key = (torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(2))
        return lambda: calibrated_attention(TorchAttention(query, key, HEAD_DIM**-0.5), threshold)

    return Size(views * patches, 2 * math.prod(shape) * dtype.itemsize, prepare)
