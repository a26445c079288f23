"""How many tokens each image or video of a prompt retains, where a schedule shares them by what is in them."""

from collections.abc import Sequence

from vflowopt.components import Schedule, ScoringContext
from vflowopt.errors import StrategyError


def counts_of(schedule: Schedule, units: Sequence[ScoringContext]) -> list[tuple[int, ...]]:
    """Counts of all stages of each unit of one sample.

    Args:
        schedule: the schedule.
        units: of one sample, in prompt order.

    Raises:
        StrategyError: the schedule's numbers are none that a plan can meet, or retain more or less in all than
            :meth:`Schedule.counts` says for units of these sizes.
    """
    sizes = [unit.layout.tokens for unit in units]
    usual = [schedule.counts(size) for size in sizes]
    shared = [tuple(counts) for counts in schedule.unit_counts(units)]
    if shared != usual:
        _require_exact(schedule.component_name(), sizes, usual, shared)
    return shared


def _require_exact(
    name: str, sizes: Sequence[int], usual: Sequence[tuple[int, ...]], shared: Sequence[tuple[int, ...]]
) -> None:
    if list(map(len, shared)) != list(map(len, usual)):
        raise StrategyError(
            f"schedule {name!r} gives {shared} for units of {list(sizes)} tokens, not {len(usual[0])} numbers for each "
            f"of {len(sizes)} units; mend its unit_counts"
        )
    for size, counts in zip(sizes, shared, strict=True):
        if not all(1 <= after <= before for before, after in zip((size, *counts), counts, strict=False)):
            raise StrategyError(
                f"schedule {name!r} gives {counts} for a unit of {size} tokens; numbers must be from 1 to {size} and "
                f"never grow: mend its unit_counts"
            )
    for stage, (wanted, given) in enumerate(zip(zip(*usual, strict=True), zip(*shared, strict=True), strict=True)):
        if sum(wanted) != sum(given):
            raise StrategyError(
                f"schedule {name!r} shares {sum(given)} tokens among the units of a sample in stage {stage}, but its "
                f"counts say {sum(wanted)}; mend its unit_counts: only their parts may depend on content"
            )
