"""Time by number of tokens: a polynomial with non-negative coefficients, and the measurements behind it."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import NonNegativeFloat

from vflowopt.errors import CostError, VFlowOptError
from vflowopt.values import Value

SMALL = 0.01
"""Errors of times below this share of the largest one measured are relative to that share: they are mostly noise."""


class Curve(Value):
    """Seconds by tokens n: the larger of ``floor`` and ``constant + linear * n + quadratic * n ** 2``.

    Attributes:
        constant: seconds that do not depend on the number of tokens.
        linear: seconds per token: matrix products.
        quadratic: seconds per pair of tokens: attention.
        floor: seconds that no number of tokens falls below: on an accelerator the time to launch its kernels, during
            which it computes short inputs on the side.
        measured: what the curve was fitted to: tokens of each part, and seconds of all of them (:meth:`total`).
    """

    refusal: ClassVar[type[VFlowOptError]] = CostError

    constant: NonNegativeFloat = 0.0
    linear: NonNegativeFloat = 0.0
    quadratic: NonNegativeFloat = 0.0
    floor: NonNegativeFloat = 0.0
    measured: tuple[tuple[tuple[NonNegativeFloat, ...], float], ...] = ()

    def at(self, tokens: float) -> float:
        """Seconds for so many tokens."""
        return self.over([tokens])

    def over(self, lengths: Sequence[float], batch: int = 1) -> float:
        """Seconds if equal parts of the work have different lengths, as the layers of a decoder do.

        Args:
            lengths: tokens of each part; at least one.
            batch: samples, each with these tokens; what does not depend on tokens is done once for all of them.
        """
        linear, quadratic = sum(lengths) / len(lengths), sum(n * n for n in lengths) / len(lengths)
        return max(self.floor, self.constant + batch * (self.linear * linear + self.quadratic * quadratic))

    def total(self, parts: Sequence[float]) -> float:
        """Seconds of several things one after the other, by the tokens of each."""
        return sum(self.at(tokens) for tokens in parts)

    def errors(self) -> tuple[float, ...]:
        """By how much the curve misses each measurement, relative to it."""
        small = SMALL * max((abs(seconds) for _, seconds in self.measured), default=0.0)
        return tuple(
            (self.total(parts) - seconds) / max(abs(seconds), small) if small else 0.0
            for parts, seconds in self.measured
        )

    @property
    def residual(self) -> float:
        """The largest of these errors; 0 without measurements."""
        return max(map(abs, self.errors()), default=0.0)
