"""Budgets in bytes and seconds: no strategy of the translated retention exceeds them, and little is left unused."""

import re

import numpy as np
import pytest

from core.search.synthetic import Synthetic, grid
from vflowopt import CostModel, KVCacheBytes, PrefillLatency, Progressive, Strategy
from vflowopt.budgets.cost import PruningCost
from vflowopt.budgets.curve import Curve
from vflowopt.budgets.kv_cache import CacheShape
from vflowopt.budgets.latency import SEARCHED
from vflowopt.budgets.requests import Workload
from vflowopt.errors import BudgetError, CostError, InputError, UnsupportedOperationError
from vflowopt.search import SearchSpace, random_search, search

LAYERS, TEXT, ROW = 9, 30, 64
COST = CostModel(
    architecture="synthetic",
    device="CPU",
    dtype="float32",
    num_layers=LAYERS,
    decoder=Curve(constant=2e-3, linear=5e-5, quadratic=4e-7),
    outside=Curve(constant=1e-3, linear=1e-5),
    pruning=(PruningCost(kind=SEARCHED, curve=Curve(constant=5e-4, linear=1e-6)),),
)


class Sized(Synthetic):
    """Samples of different sizes, each with some text."""

    def __init__(self, sides=((14,), (20,), (9, 12)), limit=None, text=TEXT, row_bytes=(ROW,) * LAYERS):
        super().__init__(num_layers=LAYERS, units=[[grid(side, side) for side in own] for own in sides])
        self.lengths = [text + sum(side * side for side in own) for own in sides]
        self.cache = CacheShape(row_bytes, tuple(limit if layer % 3 else None for layer in range(LAYERS)))


def used_bytes(evaluator, strategy):
    """Per sample, by loops over layers and units."""
    found = []
    for rows, units in zip(evaluator.lengths, evaluator.units, strict=True):
        total = 0
        for layer in range(LAYERS):
            stage = sum(boundary <= layer for boundary in strategy.schedule.boundaries) - 1
            here = rows - sum(unit.tokens for unit in units)
            here += sum(strategy.schedule.counts(unit.tokens)[stage] if stage >= 0 else unit.tokens for unit in units)
            limit = evaluator.cache.limits[layer]
            total += evaluator.cache.row_bytes[layer] * (here if limit is None else min(here, limit))
        found.append(total)
    return found


def used_seconds(evaluator, strategy):
    """Per sample, by loops over layers and units."""
    decoder, outside, own = COST.decoder, COST.outside, COST.pruning[0].curve
    found = []
    for rows, units in zip(evaluator.lengths, evaluator.units, strict=True):
        total = sum(outside.at(unit.tokens) + own.at(unit.tokens) for unit in units) + decoder.constant
        for layer in range(LAYERS):
            stage = sum(boundary <= layer for boundary in strategy.schedule.boundaries) - 1
            here = rows - sum(unit.tokens for unit in units)
            here += sum(strategy.schedule.counts(unit.tokens)[stage] if stage >= 0 else unit.tokens for unit in units)
            total += (decoder.linear * here + decoder.quadratic * here * here) / LAYERS
        found.append(total)
    return found


def space_of(evaluator, budget, stages=None):
    return SearchSpace.of(budget, LAYERS, [unit for own in evaluator.units for unit in own], stages)


def random_strategies(space, number=40):
    rng = np.random.default_rng(0)
    return [space.to_strategy(rng.random(space.dimensions)) for _ in range(number)]


def flat(evaluator, retention):
    space = space_of(evaluator, retention)
    return Strategy(scorer=random_strategies(space, 1)[0].scorer, schedule=Progressive.flat(retention))


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.8, 0.99])
@pytest.mark.parametrize("stages", [None, (2, 5)])
def test_no_strategy_takes_more_bytes_and_a_flat_one_nearly_as_many(worst, share, stages):
    evaluator, agg = Sized(), max if worst else np.mean
    whole = agg([rows * LAYERS * ROW for rows in evaluator.lengths])
    unpruned = 2 if stages else 0
    least = agg([ROW * (TEXT * LAYERS + unpruned * (rows - TEXT)) for rows in evaluator.lengths])
    budget = KVCacheBytes(least + share * (whole - least), worst=worst)
    retention = budget.retention(Workload.of(evaluator), space_of(evaluator, 1.0, stages))
    for strategy in random_strategies(space_of(evaluator, retention, stages)):
        assert agg(used_bytes(evaluator, strategy)) <= budget.limit
    if stages is None:
        left = budget.limit - agg(used_bytes(evaluator, flat(evaluator, retention)))
        units = max(len(own) for own in evaluator.units)
        assert 0 <= left < units * LAYERS * ROW


def test_a_flat_strategy_of_one_image_is_within_one_and_a_half_tokens_per_layer():
    """One that the bound leaves for stages that retain less than a token, half of one by rounding down."""
    evaluator = Sized(sides=((20,),))
    for limit in range(150_000, 230_000, 7_777):
        retention = KVCacheBytes(limit).retention(Workload.of(evaluator), space_of(evaluator, 1.0))
        (used,) = used_bytes(evaluator, flat(evaluator, retention))
        assert limit - 1.5 * LAYERS * ROW <= used <= limit


@pytest.mark.parametrize("limit", [100, 300, 10_000])
def test_sliding_windows_hold_no_more_than_their_window(limit):
    evaluator = Sized(limit=limit)
    budget = KVCacheBytes(0.6 * np.mean(used_bytes(evaluator, flat(evaluator, 1.0))))
    retention = budget.retention(Workload.of(evaluator), space_of(evaluator, 1.0))
    for strategy in random_strategies(space_of(evaluator, retention)):
        assert np.mean(used_bytes(evaluator, strategy)) <= budget.limit


UNEVEN = {
    "recurrent layers": (0, 0, ROW, 0, 0, ROW, 0, 0, ROW),
    "early keys": (4 * ROW, 0, 0, ROW, ROW, 0, 0, 0, 0),
    "late keys": (0, 0, 0, 0, 0, 0, ROW, ROW, 4 * ROW),
}


@pytest.mark.parametrize("row_bytes", UNEVEN.values(), ids=UNEVEN)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_layers_that_store_different_amounts_never_exceed_a_budget(row_bytes, share):
    evaluator = Sized(row_bytes=row_bytes)
    budget = KVCacheBytes(share * np.mean(used_bytes(evaluator, flat(evaluator, 1.0))))
    retention = budget.retention(Workload.of(evaluator), space_of(evaluator, 1.0))
    strategies = random_strategies(space_of(evaluator, retention), 200)
    assert max(np.mean(used_bytes(evaluator, strategy)) for strategy in strategies) <= budget.limit


@pytest.mark.parametrize("row_bytes", UNEVEN.values(), ids=UNEVEN)
def test_the_most_that_a_token_takes_is_reached_by_the_worst_prefixes(row_bytes):
    """By brute force: some tokens see so many layers, the others so many, on average as many as retained."""
    shape, reached = CacheShape(row_bytes, (None,) * LAYERS), np.cumsum([0, *row_bytes])
    for retention in (0.0, 0.2, 1 / 3, 0.5, 0.77, 1.0):
        seen = retention * LAYERS
        shares = (
            (few, many, (seen - few) / (many - few)) for few in range(LAYERS) for many in range(few + 1, LAYERS + 1)
        )
        mixed = [(1 - share) * reached[few] + share * reached[many] for few, many, share in shares if 0 <= share <= 1]
        assert shape.most(retention) == pytest.approx(max(mixed))


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_no_strategy_is_expected_to_take_longer(worst, share):
    evaluator, agg = Sized(), max if worst else np.mean
    slow = agg([COST.prefill_seconds((rows,) * LAYERS, [unit.tokens for unit in own])
                for rows, own in zip(evaluator.lengths, evaluator.units, strict=True)])  # fmt: skip
    fast = agg(used_seconds(evaluator, flat(evaluator, 0.02)))
    budget = PrefillLatency(fast + share * (slow - fast), COST, worst=worst)
    retention = budget.retention(Workload.of(evaluator), space_of(evaluator, 1.0))
    taken = [agg(used_seconds(evaluator, strategy)) for strategy in random_strategies(space_of(evaluator, retention))]
    assert max(taken) <= budget.seconds
    more = [
        agg(used_seconds(evaluator, strategy))
        for strategy in random_strategies(space_of(evaluator, min(1.0, 1.1 * retention)))
    ]
    assert max(more) > budget.seconds  # what is given away is small


@pytest.mark.parametrize("budget", [KVCacheBytes(1000), KVCacheBytes(10**9), PrefillLatency(1e-6, COST)])
def test_an_infeasible_budget_names_what_is_feasible(budget):
    evaluator = Sized()
    space, workload = space_of(evaluator, 1.0), Workload.of(evaluator)
    with pytest.raises(BudgetError, match=r"feasible are .* to .*unpruned") as error:
        budget.retention(workload, space)
    if budget.amount < 10**6:
        assert "ask for more" in str(error.value)
        return
    assert "meets it unpruned" in str(error.value)
    assert f"{round(np.mean(used_bytes(evaluator, flat(evaluator, 1.0)))):,} bytes" in str(error.value)


@pytest.mark.parametrize(
    ("make", "pattern"),
    [
        (KVCacheBytes, r"feasible are ([\d,]+) bytes .* to ([\d,]+) bytes"),
        (lambda seconds: PrefillLatency(seconds, COST), r"feasible are ([\d.]+) s .* to ([\d.]+) s"),
    ],
)
def test_the_bounds_that_an_error_names_are_feasible_themselves(make, pattern):
    evaluator = Sized(sides=((14,), (20,), (9, 12), (11,)))
    space, workload = space_of(evaluator, 1.0), Workload.of(evaluator)
    with pytest.raises(BudgetError) as error:
        make(1e-9).retention(workload, space)
    low, high = (float(bound.replace(",", "")) for bound in re.search(pattern, str(error.value)).groups())
    assert space.smallest_budget <= make(low).retention(workload, space) < space.smallest_budget + 0.05
    assert 0.9 < make(high).retention(workload, space) <= 1


@pytest.mark.parametrize("amount", [0, -1.0, float("nan"), float("inf")])
def test_an_amount_is_a_positive_number(amount):
    with pytest.raises(BudgetError, match="above 0"):
        KVCacheBytes(amount)
    with pytest.raises(BudgetError, match="above 0"):
        PrefillLatency(amount, COST)


def test_a_strategy_remembers_what_was_asked_for(tmp_path):
    evaluator = Sized()
    result = search(evaluator, KVCacheBytes(100_000, worst=True), iterations=1, initial=6)
    provenance = result.strategy.provenance
    assert provenance.requested.kind == "kv-cache"
    assert provenance.requested.unit == "bytes"
    assert provenance.requested.value == 100_000
    assert provenance.requested.over == "worst"
    assert provenance.requested.used == max(used_bytes(evaluator, result.strategy)) <= 100_000
    assert result.strategy.average_retention(LAYERS) == pytest.approx(provenance.budget)
    assert Strategy.load(result.strategy.save(tmp_path / "strategy.json")) == result.strategy


def test_a_latency_is_remembered_with_what_is_expected_of_the_strategy():
    evaluator = Sized()
    result = random_search(evaluator, PrefillLatency(0.02, COST), evaluations=2)
    requested = result.strategy.provenance.requested
    assert (requested.kind, requested.value, requested.unit, requested.over) == (
        "prefill-latency", 0.02, "seconds", "mean")  # fmt: skip
    assert requested.used == pytest.approx(np.mean(used_seconds(evaluator, result.strategy)))
    assert requested.used <= 0.02


def test_an_ordinary_budget_leaves_no_request():
    assert search(Sized(), 0.25, iterations=0, initial=1).strategy.provenance.requested is None


def test_the_same_retention_resumes_the_same_journal(tmp_path):
    budget, journal = KVCacheBytes(100_000), tmp_path / "run.jsonl"
    first = search(Sized(), budget, iterations=0, initial=3, journal=journal)
    again = search(Sized(), budget, iterations=1, initial=3, journal=journal)
    assert again.history[:3] == first.history


def test_an_evaluator_that_does_not_know_lengths_takes_retentions_only():
    with pytest.raises(UnsupportedOperationError, match=r"Synthetic.*average retention"):
        search(Synthetic(), KVCacheBytes(100_000), iterations=0, initial=1)


def test_samples_without_images_are_refused_as_ever():
    with pytest.raises(InputError, match="visual token"):
        search(Sized(sides=((), ())), KVCacheBytes(100_000), iterations=0, initial=1)


def test_a_cost_model_of_another_scorer_says_so():
    other = COST.model_copy(update={"pruning": ()})
    with pytest.raises(CostError, match="calibrate"):
        search(Sized(), PrefillLatency(0.02, other), iterations=0, initial=1)
