"""Scorers that rank anew inside the decoder: their schedules, and plans that are decided stage by stage."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import pruning as oracle
from support.backends import both_backends, host, to_backend
from vflowopt import GridRecycler, Progressive, Strategy, TokenLayout
from vflowopt.errors import BudgetError, ImportanceError, StrategyError
from vflowopt.methods import FastV, PyramidDrop
from vflowopt.plans.planning import PlanDraft
from vflowopt.testing import importances, pruning_cases

LINE = TokenLayout(np.array([(0, 0, column) for column in range(4)]))
STAGED = (FastV(), PyramidDrop())


@both_backends
@pytest.mark.parametrize("recycled", [False, True], ids=["dropping", "recycling"])
@given(case=pruning_cases(exact=True), data=st.data())
def test_each_stage_keeps_the_best_by_the_ranking_of_its_own(backend, recycled, case, data):
    recycler = GridRecycler(cell=case.side) if recycled else None
    unknown = to_backend(np.zeros(case.layout.tokens, dtype=np.float32), backend)
    draft = PlanDraft.start(unknown, case.layout, case.stages, case.counts, recycler, separators=case.separators)
    left, worth = set(range(case.layout.tokens)), {}
    for count in case.counts:
        assert draft.prunes_next == (count < len(left))
        ranking = data.draw(importances(case.layout.tokens, exact=True))
        draft = draft.ranked_by(to_backend(ranking, backend)).decide()
        rated = oracle.worth(ranking, case.position, case.separators, left)
        worth |= {token: rated[token] for token in left}
        cells = oracle.grid(case.position, case.side) if recycled and draft.stage == 1 else None
        left = oracle.stage(ranking, case.position, case.separators, sorted(left), count, cells, rated=left).retained
        assert set(host(draft.plan.kept[-1]).tolist()) == left
    assert draft.plan.is_complete
    assert draft.plan.counts == case.counts
    assert host(draft.plan.importance).tolist() == [worth.get(token, 0.0) for token in range(case.layout.tokens)]


@both_backends
def test_values_that_are_not_finite_rank_last_and_cost_no_wait(backend):
    draft = PlanDraft.start(to_backend(np.zeros(4, dtype=np.float32), backend), LINE, (1, 2), (3, 2))
    draft = draft.ranked_by(to_backend(np.array([np.nan, -5, -7, np.inf], dtype=np.float32), backend)).decide()
    assert host(draft.plan.kept[0]).tolist() == [0, 1, 2]  # of the two that are not finite, the first
    draft = draft.ranked_by(to_backend(np.array([np.nan, -5, -7, 1], dtype=np.float32), backend)).decide()
    assert host(draft.plan.kept[1]).tolist() == [1, 2]


def test_a_ranking_of_the_wrong_shape():
    draft = PlanDraft.start(np.zeros(4, dtype=np.float32), LINE, (1,), (3,))
    with pytest.raises(ImportanceError, match=r"\(3,\), but the unit has 4"):
        draft.ranked_by(np.zeros(3, dtype=np.float32))


def test_only_what_drops_something_waits_for_the_decoder():
    def stages(scorer, *retention):
        schedule = Progressive(stages=(1, 3, 5), retention=retention)
        return len(Strategy(scorer=scorer, schedule=schedule).draft(np.ones(4, dtype=np.float32), LINE).plan.kept)

    assert stages(PyramidDrop(), 0.5, 0.5, 0.5) == 0
    assert stages(PyramidDrop(), 1.0, 0.5, 1.0) == 1
    assert stages(PyramidDrop(), 1.0, 1.0, 1.0) == 3


@given(st.floats(0, 1, exclude_min=True), st.sampled_from(STAGED), st.integers(3, 80))
def test_schedules_meet_the_budget(share, scorer, layers):
    floor = scorer.default_stages(layers)[0] / layers
    budget = min(1.0, floor + share * (1 - floor))
    if budget <= floor + 1e-9:
        return
    schedule = scorer.schedule(budget, layers)
    assert math.isclose(schedule.average_retention(layers), budget, rel_tol=1e-12)
    assert len(set(schedule.retention)) == 1
    assert schedule.boundaries == scorer.default_stages(layers)


def test_published_settings():
    assert FastV().schedule(0.53125, 32) == Progressive(stages=(2,), retention=(0.5,))  # K = 2, R = 50%
    assert PyramidDrop().schedule(0.46875, 32) == Progressive(stages=(8, 16, 24), retention=(0.5,) * 3)
    assert PyramidDrop().default_stages(2) == (1,)


@pytest.mark.parametrize(("scorer", "budget", "bound"), [(FastV(), 0.0625, "0.0625"), (PyramidDrop(), 0.1, "0.2500")])
def test_budgets_that_layers_before_the_first_stage_use_up(scorer, budget, bound):
    with pytest.raises(BudgetError, match=f"{budget} cannot be met .* smallest feasible budget lies above {bound}"):
        scorer.schedule(budget, 32)


@pytest.mark.parametrize("scorer", STAGED)
def test_nothing_is_ranked_before_the_llm(scorer):
    with pytest.raises(StrategyError, match="none before the LLM"):
        Strategy(scorer=scorer, schedule=Progressive.flat(0.5))
    written = Strategy(scorer=scorer, schedule=scorer.schedule(0.6, 8)).to_json()
    assert Strategy.parse(written).scorer == scorer
    data = json.loads(written)
    data["schedule"]["stages"][0] = 0
    with pytest.raises(StrategyError, match="none before the LLM"):
        Strategy.parse(json.dumps(data))
