"""What the importance pass costs beside a vision tower, and how exact it is.

``python -m vflowopt_hf.measure.importance_cost`` prints a table (``make importance-cost``): both passes of calibrated
attention over random query and key, and one transformer block of a tower in the same dtype, timed in turns.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from vflowopt.benchmark.timing import Spread, interleaved
from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.measure.bench.tasks import synchronised
from vflowopt_hf.measure.devices import find_device, find_dtype
from vflowopt_hf.measure.markdown import print_row
from vflowopt_hf.vision.capture import TorchAttention

HEADS, HEAD_DIM, BLOCKS = 16, 80, 32
"""Of the tower of Qwen2-VL: its width is 1,280, its MLP four times as wide."""

THRESHOLD = 1.2
"""t of Eq. 1: the second pass goes over the patches that receive more than so many times the mean, about a quarter."""

SPREAD = 0.5
"""Standard deviation of what scores have in common that are of one patch: what it receives is spread log-normally."""

SHARE = 0.1
"""Of the patches, those that receive most; how many of them change is told."""

EXACT = 4096
"""Patches up to which float64 is computed, too."""


class Block(nn.Module):
    """One block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * HEAD_DIM
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: Tensor) -> Tensor:
        """[views, patches, width] to the same."""
        query, key, value = self.project(self.before(states)).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        states = states + self.out(attended)
        mixed: Tensor = states + self.mlp(self.after(states))
        return mixed


@dataclass(frozen=True)
class ImportanceCost:
    """Of one size and dtype.

    Attributes:
        block: seconds of one block.
        passes: seconds of both passes.
        share: of the passes in the time of a tower, round by round.
        error: largest relative error of a patch's importance, the same patches selected; ``None`` if not computed.
        changed: how many of the most important tenth of the patches float64 would not have, likewise.
    """

    block: Spread
    passes: Spread
    share: Spread
    error: float | None = None
    changed: int | None = None


@torch.no_grad()
def measure(views: int, patches: int, dtype: torch.dtype, device: torch.device, rounds: int) -> ImportanceCost:
    """Time both passes beside a block, and compare them with float64.

    Args:
        views: how many views of the same length.
        patches: of each.
        dtype: of the tower, and so of query and key.
        device: where all of it runs.
        rounds: measured rounds.
    """
    generator = torch.Generator(device).manual_seed(0)
    shape = (views, patches, HEADS, HEAD_DIM)
    query, key = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    query[..., 0] = HEAD_DIM**0.5
    key[..., 0] = SPREAD * torch.randn(views, patches, 1, generator=generator, device=device)
    query, key = (states.to(dtype).transpose(1, 2) for states in (query, key))
    states = torch.randn(views, patches, HEADS * HEAD_DIM, generator=generator, device=device).to(dtype)
    block = Block().to(device, dtype)

    def passes() -> tuple[Tensor, Tensor]:
        return calibrated_attention(TorchAttention(query, key, HEAD_DIM**-0.5), THRESHOLD)

    tasks = {"block": synchronised(lambda: block(states), device), "passes": synchronised(passes, device)}
    times = {name: timing.wall for name, timing in interleaved(tasks, rounds).items()}
    share = times["passes"].over(times["block"].scaled(BLOCKS))
    if patches > EXACT:
        return ImportanceCost(times["block"], times["passes"], share)
    found, selected = (array.cpu().numpy() for array in passes())
    exact = np.stack([in_float64(*view) for view in zip(query.cpu(), key.cpu(), selected, strict=True)])
    most = max(1, round(SHARE * patches))
    changed = sum(len(set(top(own, most)) - set(top(right, most))) for own, right in zip(found, exact, strict=True))
    return ImportanceCost(times["block"], times["passes"], share, float(np.max(abs(found / exact - 1))), changed)


def in_float64(query: Tensor, key: Tensor, selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The same of one view, by NumPy: attention received from the selected patches, mean over heads, [patches].

    Args:
        query: [heads, patches, head_dim].
        key: the same.
        selected: bool [patches].
    """
    total = np.zeros(len(selected))
    for rows, columns in zip(query.double().numpy(), key.double().numpy(), strict=True):
        scores = rows[selected] @ columns.T * HEAD_DIM**-0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        total += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    return total / len(query)


def top(importance: npt.NDArray[np.floating], count: int) -> list[int]:
    """The most important patches."""
    chosen: list[int] = np.argsort(-importance, kind="stable")[:count].tolist()
    return chosen


HEADER = ("views x patches", "dtype", "a block, ms", "both passes, ms", f"share of {BLOCKS} blocks", "error", "changed")


def rows(
    sizes: Sequence[tuple[int, int]], dtypes: Sequence[str], device: torch.device, rounds: int
) -> Iterator[tuple[str, ...]]:
    """Rows of the table."""
    for views, patches in sizes:
        for dtype in dtypes:
            cost = measure(views, patches, find_dtype(dtype, device, torch.bfloat16), device, rounds)
            share = f"{100 * cost.share.median:.2f} % ({100 * cost.share.low:.2f} to {100 * cost.share.high:.2f})"
            error = "not computed" if cost.error is None else f"{cost.error:.1e}"
            changed = "not computed" if cost.changed is None else f"{cost.changed} of {views * round(SHARE * patches)}"
            milliseconds = (f"{1e3 * spread.median:.2f}" for spread in (cost.block, cost.passes))
            yield (f"{views} x {patches:,}", dtype, *milliseconds, share, error, changed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m vflowopt_hf.measure.importance_cost", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default="1x729,1x4000,1x17800", help="VIEWSxPATCHES, separated by commas")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    sizes = [(int(views), int(patches)) for views, patches in (one.split("x") for one in options.sizes.split(","))]
    device = find_device(options.device)
    print_row(HEADER)
    print_row(["---"] * len(HEADER))
    for row in rows(sizes, options.dtypes.split(","), device, options.rounds):
        print_row(row)


if __name__ == "__main__":
    main()
