"""``--budget``, ``--kv-cache`` and ``--prefill-latency``, what pruning is to achieve; ``--guard``, that it pays."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vflowopt.adapter import Evaluator
from vflowopt.budgets.cost import CostModel
from vflowopt.budgets.latency import PrefillLatency
from vflowopt.budgets.requests import KVCacheBytes, RequestBudget, Workload
from vflowopt.components.schedule import check_budget
from vflowopt.errors import BudgetError, InputError, shown

if TYPE_CHECKING:
    from vflowopt.search import OptimizeResult

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
"""Bytes of each unit, in lower case."""

BudgetOption = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Average retention in (0, 1], for example 0.25.")
]
BudgetsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Instead of --budget: several, for example 0.5,0.25,0.1. One search serves them all and any in between; "
        "--out becomes a front of strategies.",
    ),
]
KVCacheOption = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES", help="Instead of --budget: KV cache per request after the prefill, for example 64MiB."
    ),
]
PrefillLatencyOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Instead of --budget: seconds of a request's prefill, as --cost expects them; for example 0.2.",
    ),
]
CostOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Cost model of --prefill-latency (vflowopt calibrate).")
]
WorstOption = Annotated[
    bool,
    typer.Option("--worst", help="Every sample has to meet --kv-cache or --prefill-latency; otherwise their mean."),
]
GuardOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Cost model (vflowopt calibrate): inputs that pruning is not expected to speed up are left alone.",
    ),
]


def read_cost(path: Path | None) -> CostModel | None:
    """The cost model of an option, if it is given.

    Raises:
        CostError: the file cannot be read, or is no cost model.
    """
    return None if path is None else CostModel.load(path)


def read_budget(
    budget: float | None,
    budgets: str | None,
    kv_cache: str | None,
    latency: float | None,
    cost: Path | None,
    worst: bool,
) -> float | RequestBudget | list[float]:
    """The one budget that is given, or the several of ``--budgets``.

    Raises:
        InputError: none is given, or more than one, or an option that does not go with it.
        BudgetError: it is not a positive number, or an average retention outside (0, 1].
        CostError: the cost model cannot be read.
    """
    if [budget, budgets, kv_cache, latency].count(None) != 3:
        raise InputError("give exactly one of --budget, --budgets, --kv-cache and --prefill-latency")
    if (cost is None) != (latency is None):
        raise InputError("--prefill-latency and --cost go together: vflowopt calibrate makes the cost model")
    if worst and (budget is not None or budgets is not None):
        raise InputError("--worst goes with --kv-cache or --prefill-latency: a retention is that of every sample")
    if budgets is not None:
        return _several(budgets)
    if budget is not None:
        return check_budget(budget)
    if latency is not None and cost is not None:
        return PrefillLatency(latency, CostModel.load(cost), worst=worst)
    return KVCacheBytes(read_bytes(kv_cache or ""), worst=worst)


def _several(text: str) -> list[float]:
    try:
        return [check_budget(float(part)) for part in text.split(",")]
    except BudgetError:
        raise
    except ValueError:
        raise BudgetError(
            f"--budgets are average retentions separated by commas, for example 0.5,0.25,0.1; got {shown(text)}"
        ) from None


def achieved(wanted: RequestBudget, result: "OptimizeResult", evaluator: Evaluator, processes: int) -> str:
    """One line: what the strategy found uses of the budget; of a latency, what the search measured beside it.

    Args:
        wanted: the budget.
        result: of the search.
        evaluator: of the search.
        processes: how many shared the evaluations: the prefills of one process alone say nothing of all samples.
    """
    schedule, workload = result.strategy.schedule, Workload.of(evaluator)
    used = wanted.of_request([wanted.used(size, schedule, workload) for size in workload.samples])
    line = f"{wanted.kind}: {wanted.shown(used)} of {wanted.shown(wanted.amount)} per request ({wanted.over})"
    measured = result.best.decoder_seconds
    if not isinstance(wanted, PrefillLatency) or measured is None or processes > 1:
        return line
    count, decoder = len(workload.samples), wanted.cost.decoder
    expected = sum(decoder.over(size.lengths(schedule, workload.num_layers)) for size in workload.samples) / count
    return (
        f"{line}, expected by the cost model; of its decoder it expects {wanted.shown(expected)}, the search measured "
        f"{wanted.shown(measured / count)} (mean)"
    )


def read_bytes(text: str) -> float:
    """A number of bytes with or without a unit.

    >>> read_bytes("64MiB"), read_bytes("1.5 kB"), read_bytes("1000")
    (67108864.0, 1500.0, 1000.0)

    Raises:
        BudgetError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS:
        raise BudgetError(f"{text!r} is not a number of bytes; write 64MiB, 1.5GB or 1000000")
    return float(found[1]) * UNITS[found[2].lower()]
