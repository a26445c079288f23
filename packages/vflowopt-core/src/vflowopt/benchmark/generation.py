"""Whole answers, timed: what a user waits for until the first token and until the last."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from vflowopt.benchmark.kernels import Kernels
from vflowopt.benchmark.timing import Spread, Timing

Mode = Literal["eager", "compiled", "layers", "graphs", "graphs-compiled"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""``eager``: as the model runs by itself. ``compiled``: with a static cache, whose decoding steps are compiled.
``layers``: each layer of tower and decoder is compiled, ``layer.forward = torch.compile(layer.forward, dynamic=True)``.
``graphs``: prompts are processed by recorded CUDA graphs, as with ``prune(..., graphs=True)``; unpruned, too.
``graphs-compiled``: that with the static cache of ``compiled``."""


@dataclass(frozen=True)
class Generation:
    """Greedy answers of one row in one mode.

    Attributes:
        mode: how the model ran.
        first_calls: seconds of the very first answers in this mode, of the longest length asked for, until everything
            was made that later ones reuse (compiled code, recorded graphs).
        times: of a whole answer by its number of tokens, which all samples of the batch have; 1 is among them.
        kernels: what the device did for the first token; ``None`` if not measured.
        prefill: from pixels to first logits, without ``generate``; ``None`` in modes that change decoding alone, and in
            the eager one, where it is the part ``end-to-end prefill``.
        prefill_kernels: what the device did in it; ``None`` if not measured.
    """

    mode: Mode
    first_calls: float
    times: Mapping[int, Timing]
    kernels: Kernels | None = None
    prefill: Timing | None = None
    prefill_kernels: Kernels | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(self.times)

    def rate(self, batch: int) -> Spread | None:
        """Tokens per second after the first, of all samples together, round by round.

        Returns:
            ``None`` if only first tokens were timed, or if in a round more tokens took no longer.
        """
        more = self.longest - 1
        rounds = zip(self.times[self.longest].wall.values, self.times[1].wall.values, strict=True)
        taken = [whole - first for whole, first in rounds]
        return Spread.of([batch * more / one for one in taken]) if more and min(taken) > 0 else None
