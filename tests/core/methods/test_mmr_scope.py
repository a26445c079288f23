"""MMR and SCOPE against loops in float64; NumPy and torch alike."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import greedy as oracle
from support.backends import both_backends, host, to_backend
from support.units import Unit, tokens_of
from vflowopt import Progressive, Strategy
from vflowopt.errors import StrategyError
from vflowopt.methods import MMR, SCOPE
from vflowopt.methods.mmr import relevant_order
from vflowopt.methods.scope import _chosen, covering_order
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import host_units, require_valid_plan, seeds

CLEAR = 1e-5
"""Closer choices are made by rounding in float32."""


def sources(unit):
    """Attention by which each source ranks, over patches."""
    received = unit.attention.received()
    return {
        "auto": unit.class_attention,
        "class": unit.class_attention,
        "mean": received / received.shape[-1],
    }


OFFERED = {"auto": "saliency", "class": "class_attention", "mean": "attention"}
NEEDED = {"auto": "saliency", "class": "class-attention", "mean": "attention"}


def require_chosen(scorer, unit, backend, count, expected):
    """The scorer retains what the oracle's loop chooses, in its order."""
    structural = unit.layout.structural
    tokens = np.flatnonzero(~structural)
    chosen, margin = expected
    assert scorer.needs == {NEEDED[scorer.source], "features"}
    context = Unit(unit, backend, (OFFERED[scorer.source], "features"))
    importance = host(scorer.score_retaining(context, count).importance)
    assert importance.dtype == np.float32
    assert (importance[structural] == 0).all()
    assert len(set(importance[tokens].tolist())) == len(tokens)  # a place for every token
    assume(margin > CLEAR)
    assert np.argsort(-importance[tokens], kind="stable")[:count].tolist() == chosen


@both_backends
@given(unit=host_units(), data=st.data())
def test_mmr_chooses_what_the_greedy_loop_chooses(backend, unit, data):
    tokens = np.flatnonzero(~unit.layout.structural)
    scorer = MMR(relevance=data.draw(st.floats(0, 1)), source=data.draw(st.sampled_from(["auto", "class", "mean"])))
    count = data.draw(st.integers(0, min(12, len(tokens))))
    attention = tokens_of(unit, sources(unit)[scorer.source])[tokens]
    expected = oracle.relevant(attention, unit.features[tokens], scorer.relevance, count) if count else ([], 1)
    require_chosen(scorer, unit, backend, count, expected)


@both_backends
@given(unit=host_units(), data=st.data())
def test_scope_chooses_what_the_greedy_loop_chooses(backend, unit, data):
    tokens = np.flatnonzero(~unit.layout.structural)
    scorer = SCOPE(
        alpha=data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        source=data.draw(st.sampled_from(["auto", "class", "mean"])),
    )
    count = data.draw(st.integers(0, min(12, len(tokens))))
    attention = tokens_of(unit, sources(unit)[scorer.source])[tokens]
    expected = oracle.covering(attention, unit.features[tokens], scorer.alpha, count)
    require_chosen(scorer, unit, backend, count, expected)


@given(seed=seeds, tokens=st.integers(1, 60), data=st.data())
def test_scope_chooses_alike_with_and_without_bounds(seed, tokens, data):
    """Lazily on a CPU, or every gain at every step as on other devices; small whole numbers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    steps = data.draw(st.integers(0, tokens))
    kinds = np.eye(8, dtype=np.float32)[rng.integers(0, data.draw(st.integers(1, 8)), tokens)]
    saliency = rng.integers(0, 4, tokens).astype(np.float32)
    lazily = covering_order(saliency, kinds, steps)
    plainly = _chosen(saliency, kinds @ kinds.T, steps)
    assert lazily.tolist() == plainly.tolist()
    assert sorted(lazily.tolist()) == list(range(tokens))
    assert lazily.dtype == plainly.dtype == np.int64


@both_backends
@given(seed=seeds, tokens=st.integers(1, 30), data=st.data())
def test_more_steps_only_go_on_with_the_order(backend, seed, tokens, data):
    rng = np.random.default_rng(seed)
    features, attention = rng.normal(size=(tokens, 5)).astype(np.float32), rng.random(tokens).astype(np.float32)
    steps = data.draw(st.integers(0, tokens))
    both = to_backend(attention, backend), to_backend(features, backend)
    for order in (lambda steps: relevant_order(*both, 0.7, steps), lambda steps: covering_order(*both, steps)):
        whole, part = host(order(tokens)).tolist(), host(order(steps)).tolist()
        assert part[:steps] == whole[:steps]
        assert sorted(part) == sorted(whole) == list(range(tokens))


@both_backends
def test_copies_are_chosen_last_and_of_equal_tokens_the_first(backend):
    """Four tokens of two kinds: one of each, then what is left."""
    features = to_backend(np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32), backend)
    attention = to_backend(np.array([0.5, 0.5, 0.25, 0.25], dtype=np.float32), backend)
    assert host(relevant_order(attention, features, 0.4, 4)).tolist() == [0, 2, 1, 3]
    assert host(covering_order(attention, features, 2)).tolist() == [0, 2, 1, 3]
    assert host(relevant_order(attention, features, 1.0, 4)).tolist() == [0, 1, 2, 3]


@given(unit=host_units(), data=st.data())
def test_counts_are_exact(unit, data):
    tokens = unit.layout.tokens
    count = data.draw(st.integers(1, tokens))
    scorer = data.draw(st.sampled_from([MMR(), MMR(relevance=0), SCOPE(), SCOPE(alpha=0)]))
    strategy = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(count / tokens,)))
    require_valid_plan(strategy.plan(scorer.score_retaining(unit, count).importance, unit.layout), strategy)


@pytest.mark.parametrize(
    ("text", "scorer"),
    [
        ("mmr@0.25", MMR()),
        ("mmr@0.25,relevance=0.5,source=mean", MMR(relevance=0.5, source="mean")),
        ("scope@0.25", SCOPE()),
        ("scope@0.25,alpha=2,source=class", SCOPE(alpha=2, source="class")),
    ],
)
def test_on_the_command_line(text, scorer):
    strategy = read_strategy(text)(28)
    assert (strategy.scorer, strategy.recycler) == (scorer, None)
    assert strategy.schedule == Progressive(stages=(0,), retention=(0.25,))
    assert Strategy.parse(strategy.to_json()) == strategy


@pytest.mark.parametrize("text", ["mmr@0.25,relevance=1.5", "scope@0.25,alpha=-1", "mmr@0.25,source=text"])
def test_wrong_options_are_refused(text):
    with pytest.raises(StrategyError, match=text.partition(",")[2].partition("=")[0]):
        read_strategy(text)
