"""FitPrune's recipe: against loops, and its budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.methods import FitPrune
from vflowopt.methods.fitprune import ReceivedAttention, fit, recipe

LAYERS = 7


def unit(seed, tokens, structural=0):
    rng = np.random.default_rng(seed)
    own, cross = rng.random((2, LAYERS, tokens)) ** 4
    return ReceivedAttention(own, cross, np.arange(tokens) >= tokens - structural)


def weakest(received, alive, alpha):
    """One token after the other, as long as what is left holds enough; never the last one."""
    ranked = sorted(alive, key=lambda token: (received[token], token))
    gone = set()
    for token in ranked[:-1]:
        left = sum(received[other] for other in alive if other not in gone and other != token)
        if left < (1 - alpha) * sum(received):
            break
        gone.add(token)
    return gone


def loops(one, alpha):
    assert not one.structural.any()
    tokens = range(len(one.structural))
    alive, shares = list(tokens), [1.0]
    for layer in range(LAYERS - 1):
        gone = weakest(one.own[layer], alive, alpha) & weakest(one.cross[layer], alive, alpha)
        alive = [token for token in alive if token not in gone]
        shares.append(len(alive) / len(tokens))
    return shares


units = st.builds(unit, st.integers(0, 1000), st.integers(4, 40))


@given(st.lists(units, min_size=1, max_size=3), st.floats(0.01, 0.99))
def test_a_recipe_drops_what_both_rankings_can_spare(seen, alpha):
    expected = np.mean([loops(one, alpha) for one in seen], axis=0)
    np.testing.assert_allclose(recipe(seen, alpha), expected, rtol=1e-12)


@given(st.lists(units, min_size=1, max_size=3), st.floats(0, 1))
def test_fitted_schedules_meet_every_feasible_budget(seen, share):
    least = recipe(seen, 1.0).mean()
    schedule = fit(seen, least + share * (1 - least))
    assert schedule.average_retention(LAYERS) == pytest.approx(least + share * (1 - least), abs=1e-9)
    assert schedule.boundaries[0] >= 1


def test_tokens_that_receive_more_are_dropped_later():
    calm, busy = np.full((LAYERS, 20), 1.0), np.full((LAYERS, 20), 1.0)
    calm[:, :10] = 1e-3
    shape = recipe([ReceivedAttention(calm, busy, np.zeros(20, dtype=bool))], 0.3)
    assert shape[1] == 0.7  # cross-attention spares 6 of 20 at a tolerance of 0.3, self-attention the weak ten and more


def test_a_budget_below_the_least():
    with pytest.raises(BudgetError, match=r"smallest feasible budget is 0\.\d{4}"):
        fit([unit(0, 10)], 0.2)


def test_separators_take_no_part():
    tokens = unit(0, 12)
    more = np.insert(tokens.own, [3, 9], 5.0, axis=1), np.insert(tokens.cross, [3, 9], 5.0, axis=1)
    separated = ReceivedAttention(*more, np.insert(tokens.structural, [3, 9], True))
    assert fit([separated], 0.5) == fit([tokens], 0.5)
    with pytest.raises(InputError, match="nothing to fit"):
        fit([unit(0, 3, structural=3)], 0.5)


def test_nothing_to_fit_to():
    with pytest.raises(InputError, match="nothing to fit"):
        fit([], 0.5)


def test_a_budget_alone_makes_no_schedule():
    with pytest.raises(StrategyError, match=r"vflowopt fit --method fitprune --budget 0\.5"):
        FitPrune().schedule(0.5, 28)
