"""Any strategy makes valid plans from the attention and pixels that the adapter gives."""

from collections.abc import Sequence

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vflowopt import Strategy
from vflowopt.testing import pruning_strategies, require_valid_plan
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.testing.probe import embed
from vflowopt_hf.testing.subject import Subject


def plans(subject: Subject) -> None:
    """Any strategy over real captured attention keeps exact counts, nested, separators as it says."""
    units: list[UnitContext] = []
    for batch in subject.geometries():
        with torch.no_grad():
            units += embed(subject, batch).contexts
    _any_strategy(units, subject.num_layers)


def _any_strategy(units: Sequence[UnitContext], num_layers: int) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        unit = data.draw(st.sampled_from(range(len(units))))
        strategy: Strategy = data.draw(pruning_strategies(num_layers))
        with torch.no_grad():
            importance = strategy.scorer.score(units[unit]).importance
            require_valid_plan(strategy.plan(importance, units[unit].layout, units[unit]), strategy)

    holds()
