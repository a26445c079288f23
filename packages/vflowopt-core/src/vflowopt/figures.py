"""How figures read, on the screen, in files and in pictures: one style everywhere."""

from collections.abc import Sequence


def percent(value: float, digits: int = 1) -> str:
    """A share: 0.25 -> 25.0 %."""
    return f"{100 * value:.{digits}f} %"


def score(value: float) -> str:
    """A similarity: 0.99342 -> 0.9934."""
    return f"{value:.4f}"


def ratio(value: float) -> str:
    """How many times as much: 2.319 -> 2.32x."""
    return f"{three_digits(value)}x"


def seconds(value: float) -> str:
    """A duration, or a difference of durations, with three significant digits: 0.0542 -> 54.2 ms."""
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if round(abs(value) * factor, 3) >= 1:
            return f"{three_digits(value * factor)} {unit}"
    return f"{three_digits(1e6 * value)} us"


def size(count: float) -> str:
    """Bytes with a binary unit: 662426 -> 646.9 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def flops(number: float) -> str:
    """FLOPs with a decimal unit and three significant digits: 7.895e9 -> 7.90 G; 0 of what holds no matrix product."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{three_digits(number / factor)} {unit}"
    return f"{number:.0f}"


def tokens(counts: Sequence[float]) -> str:
    """Visual tokens per stage: 406 > 102 > 80."""
    return " > ".join(f"{count:.0f}" for count in counts)


def three_digits(value: float) -> str:
    """At least three significant digits, never an exponent: 1.53, 15.3, 153, 1530."""
    places = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{places}f}"
