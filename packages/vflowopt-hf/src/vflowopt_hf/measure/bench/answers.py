"""Whole answers of all rows of a benchmark in several modes."""

from collections.abc import Callable, Mapping, Sequence

import torch

from vflowopt.benchmark import Generation, Kernels
from vflowopt.benchmark.timing import Moment, Timing
from vflowopt.errors import InputError
from vflowopt_hf.measure.bench.modes import Way
from vflowopt_hf.measure.bench.tasks import Candidate, Run, synchronised

PREFILL = 0
"""Instead of a number of tokens: the prompt alone."""

Key = tuple[str, Way, int]
"""Name of the row, mode, and tokens."""


class Answers:
    """What to run, and what it took.

    Args:
        candidates: the rows.
        ways: modes.
        lengths: tokens of an answer; 1 is added. None of them: there are no answers.
        device: of the model.

    Raises:
        InputError: an answer of less than one token.
    """

    def __init__(
        self, candidates: Sequence[Candidate], ways: Sequence[Way], lengths: Sequence[int], device: torch.device
    ) -> None:
        asked = sorted({1, *lengths}) if lengths else []
        if asked and asked[0] < 1:
            raise InputError(f"an answer has at least one token, not {asked[0]}")
        self._rows = [(candidate, way) for way in ways for candidate in candidates] if asked else []
        self._runs: dict[Key, Run] = {
            (candidate.name, way, tokens): candidate.answer(tokens, way)
            for candidate, way in self._rows
            for tokens in (*([PREFILL] if way.prefills else []), *asked)
        }
        self._device, self._longest = device, max(asked, default=0)
        self._first: dict[tuple[str, Way], float] = {}

    @property
    def runs(self) -> dict[str, Run]:
        """All of them by names that no part of a prefill has."""
        return {_name(key): run for key, run in self._runs.items()}

    @property
    def first_tokens(self) -> dict[str, Run]:
        """Those of one token, or none."""
        return {_name(key): run for key, run in self._runs.items() if key[2] <= 1}

    @property
    def total(self) -> int:
        """Calls of :meth:`begin`."""
        return len(self._rows)

    def begin(self, tell: Callable[[], None], clock: Callable[[], Moment] = Moment.now) -> None:
        """Make whatever is made once, and time that: by the longest answers of each row in each mode, which fit all."""
        for candidate, way in self._rows:
            run = candidate.first_answers(self._longest, way)
            with run.within():
                task, start = synchronised(run.task, self._device), clock()
                task()
                self._first[candidate.name, way] = clock().wall - start.wall
            tell()

    def of(self, name: str, measured: Mapping[str, Timing], kernels: Mapping[str, Kernels]) -> tuple[Generation, ...]:
        """The answers of a row, by mode.

        Args:
            name: of the row.
            measured: times by the names of :attr:`runs`.
            kernels: by the names of :attr:`first_tokens`, as far as measured.
        """
        made = []
        for way in (way for candidate, way in self._rows if candidate.name == name):
            keys = {tokens: _name((name, way, tokens)) for own, its, tokens in self._runs if (own, its) == (name, way)}
            times = {tokens: measured[key] for tokens, key in keys.items()}
            made.append(
                Generation(
                    mode=way.mode,
                    first_calls=self._first[name, way],
                    prefill=times.pop(PREFILL, None),
                    times=times,
                    prefill_kernels=kernels.get(keys.get(PREFILL, "")),
                    kernels=kernels.get(keys[1]),
                )
            )
        return tuple(made)


def _name(key: Key) -> str:
    name, way, tokens = key
    return f"{name}/{way.mode}/{tokens}"
