"""What ``vflowopt optimize`` says of a search that has ended."""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vflowopt.cli.tables import print_table
from vflowopt.figures import percent, score

if TYPE_CHECKING:
    from vflowopt.search import OptimizeResult
    from vflowopt.search.result import Selected

COLUMNS = "budget", "similarity", "on fresh samples", "equal to it", "found as"


def told(out: Path, result: "OptimizeResult") -> list[str]:
    """Lines about the strategy of one budget."""
    chosen, best = result.selected[0], result.best
    ended = "interrupted after" if result.interrupted else "of"
    lines = [
        f"{out}: similarity {score(best.score)} at {percent(best.retention)} average retention "
        f"({ended} {len(result.history)} evaluations, found as {best.origin})"
    ]
    if raced := _raced(chosen):
        lines.append(raced)
    if worth := _worth(result):
        lines.append(worth)
    return lines


def print_front(out: Path, result: "OptimizeResult") -> None:
    """A row per budget of a search for several."""
    rows = [
        (
            percent(chosen.budget),
            score(chosen.entry.score),
            "-" if chosen.fresh is None else score(chosen.fresh),
            str(len(chosen.equal)),
            chosen.entry.origin,
        )
        for chosen in result.selected
    ]
    ended = "interrupted after " if result.interrupted else ""
    low, high = result.front.budgets[-1], result.front.budgets[0]
    caption = (
        f"{out}: {ended}{len(result.history)} evaluations for all budgets together; holds a strategy for any budget "
        f"from {percent(low)} to {percent(high)}: {out}@{(low * high) ** 0.5:.2g}. Equal to it: other strategies that "
        f"fresh samples could not tell from the one chosen."
    )
    print_table("Found", COLUMNS, rows, caption)


def plateaued(result: "OptimizeResult") -> str:
    """That a search ended early."""
    return f"{result.saved} evaluations were left out: nothing more was expected of them (--plateau 0 makes them)"


def figures(result: "OptimizeResult", out: Path, front: bool) -> dict[str, Any]:
    """The same and more, for ``--json``."""
    what = result.front if front else result.strategy
    return {
        "front" if front else "strategy": what.model_dump(mode="json"),
        "file": str(out),
        "score": result.best.score,
        "retention": result.best.retention,
        "selected": [_figures_of(chosen) for chosen in result.selected],
        "evaluations": len(result.history),
        "heats": len(result.heats),
        "saved": result.saved,
        "interrupted": result.interrupted,
        "unsearched": result.unsearched,
        "cost": result.cost and asdict(result.cost),
    }


def _figures_of(chosen: "Selected") -> dict[str, Any]:
    return {
        "budget": chosen.budget,
        "evaluation": chosen.entry.index,
        "score": chosen.entry.score,
        "expected": chosen.expected,
        "fresh": chosen.fresh,
        "equal": list(chosen.equal),
        "within": chosen.within,
    }


def _raced(chosen: "Selected") -> str:
    """How the best few did on fresh samples; empty if they did not race."""
    if chosen.fresh is None:
        return ""
    line = f"On samples that the search did not see: {score(chosen.fresh)}"
    if chosen.within is None:
        return f"{line}, ahead of the others of the best few."
    return f"{line}; {len(chosen.equal)} of the best few equal it within {score(chosen.within)}."


def _worth(result: "OptimizeResult") -> str:
    """What the similarity is worth: that of what takes no search beside it; empty if there is none."""
    best = result.best.score
    lines = [
        f"plain mean attention {score(base)} (what was found loses {percent((best - base) / (1 - base))} less)"
        for base in result.unsearched["mean-attention"]
        if base < 1
    ]
    if drawn := result.unsearched["drawn"]:
        lines.append(f"strategies drawn at random {score(statistics.median(drawn))} (median of {len(drawn)})")
    return f"At the same budget, on the same samples: {'; '.join(lines)}." if lines else ""
