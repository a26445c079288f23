"""Methods that score before the LLM, against loops in float64; NumPy and torch alike."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import vision_methods as oracle
from support.backends import both_backends, host, to_backend
from support.units import Unit, tokens_of
from vflowopt import Progressive, Strategy, TokenLayout
from vflowopt.components import Recycler
from vflowopt.components.recycle import GridRecycler
from vflowopt.errors import InputError, StrategyError
from vflowopt.methods.divprune import DivPrune, diverse_order
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.visionzip import ContextualTokens, VisionZip
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import host_units, require_valid_plan, seeds, separators

CLEAR = 1e-5
"""Closer choices are made by rounding in float32."""


@both_backends
@given(unit=host_units())
def test_fastervlm_and_visionzip_rank_by_class_attention(backend, unit):
    expected = tokens_of(unit, unit.class_attention)
    for scorer in (FasterVLM(), VisionZip()):
        assert scorer.needs == {"class-attention"}
        importance = host(scorer.score(Unit(unit, backend, ("class_attention",))).importance)
        np.testing.assert_allclose(importance, expected, rtol=1e-5, atol=1e-7)


@both_backends
@given(unit=host_units())
def test_visionzip_without_class_token_ranks_by_mean_attention_received(backend, unit):
    scorer = VisionZip(source="mean")
    assert scorer.needs == {"attention"}
    context = Unit(unit, backend, ("attention",))
    matrix = unit.attention._matrix.astype(np.float64)
    received = np.array([[column.mean() for column in view.T] for view in matrix])
    np.testing.assert_allclose(host(scorer.score(context).importance), tokens_of(unit, received), rtol=1e-4, atol=1e-7)


@both_backends
@given(unit=host_units(), data=st.data())
def test_divprune_keeps_what_the_greedy_loop_keeps(backend, unit, data):
    assert DivPrune().needs == {"features"}
    structural = unit.layout.structural
    tokens = np.flatnonzero(~structural)
    count = data.draw(st.integers(0, min(12, len(tokens))))
    importance = host(DivPrune().score(Unit(unit, backend, ("features",))).importance)
    assert importance.dtype == np.float32
    assert (importance[structural] == 0).all()
    chosen, margin = oracle.diverse(unit.features[tokens], count)
    assume(margin > CLEAR)
    assert np.argsort(-importance[tokens], kind="stable")[:count].tolist() == chosen  # in the order of the loop


@both_backends
@given(seed=seeds, tokens=st.integers(1, 40), data=st.data())
def test_divprune_puts_no_more_tokens_in_order_than_are_retained(backend, seed, tokens, data):
    """What is left follows by its distance from the nearest of them, far ones first."""
    features = np.random.default_rng(seed).normal(size=(tokens, 5)).astype(np.float32)
    steps = data.draw(st.integers(0, tokens))
    whole = host(diverse_order(to_backend(features, backend), tokens)).tolist()
    order = host(diverse_order(to_backend(features, backend), steps)).tolist()
    assert order[:steps] == whole[:steps]
    assert sorted(order) == list(range(tokens))
    if steps:
        left = [min(oracle.distance(features[j], features[i]) for j in order[:steps]) for i in order[steps:]]
        assert all(nearer <= farther + CLEAR for farther, nearer in pairwise(left))
    separated = TokenLayout(np.array([(-1, -1, -1), *((0, 0, i) for i in range(tokens))]))
    unit = replace(a_unit(separated), features=np.concatenate([np.ones((1, 5), dtype=np.float32), features]))
    score = DivPrune().score_retaining(Unit(unit, backend, ("features",)), steps)
    assert (np.argsort(-host(score.importance)[1:], kind="stable")).tolist() == order


@both_backends
@given(seed=seeds, tokens=st.integers(1, 40), distinct=st.integers(1, 5))
def test_copies_of_tokens_are_chosen_last_and_once(backend, seed, tokens, distinct):
    """Every token has a place, also where many are the same, or 0."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(distinct, 4)).astype(np.float32)
    kinds[0] = 0
    member = rng.integers(0, distinct, tokens)
    order = host(diverse_order(to_backend(kinds[member], backend), tokens))
    assert sorted(order.tolist()) == list(range(tokens))
    seen = member[order][1:]  # any token may be the first
    first = {member[order[0]]}
    for kind in seen[: len(set(member.tolist())) - 1]:
        assert kind not in first or kind == 0  # 0 is at distance 1 from its copies
        first.add(kind)


def merge(unit, backend, importance, count, contextual):
    recycler = ContextualTokens(contextual=contextual)
    assert recycler.needs == {"keys"}
    return recycler.merge_unit(to_backend(importance, backend), Unit(unit, backend, ("keys",)), count)


@both_backends
@given(unit=host_units(), data=st.data(), seed=seeds)
def test_visionzip_merges_what_the_loop_merges(backend, unit, data, seed):
    layout = unit.layout
    count = data.draw(st.integers(1, layout.tokens))
    contextual = data.draw(st.one_of(st.just(10 / 64), st.floats(0, 1)))
    importance = np.random.default_rng(seed).integers(0, 20, layout.tokens).astype(np.float32)
    keys = np.stack([tokens_of(unit, unit.keys[..., i]) for i in range(unit.keys.shape[-1])], axis=1)
    expected = oracle.zipped(importance, keys, count, contextual)
    assume(expected.margin > CLEAR)
    actual = merge(unit, backend, importance, count, contextual)
    assert set(np.flatnonzero(host(actual.retained)).tolist()) == expected.retained
    assert len(expected.retained) == count
    assert host(actual.anchor).tolist() == expected.anchor
    np.testing.assert_allclose(host(actual.weight), expected.weight, rtol=1e-6)


@given(unit=host_units(), data=st.data())
def test_plans_are_valid_and_their_slots_are_plain_means(unit, data):
    tokens = unit.layout.tokens
    count = data.draw(st.integers(1, tokens))
    scorer = data.draw(st.sampled_from([FasterVLM(), VisionZip(), VisionZip(source="mean"), DivPrune()]))
    schedule = Progressive(stages=(0,), retention=(count / tokens,))
    strategy = Strategy(scorer=scorer, schedule=schedule, recycler=ContextualTokens(), separators=data.draw(separators))
    plan = strategy.plan(scorer.score(unit).importance, unit.layout, unit)
    require_valid_plan(plan, strategy)
    if not plan.recycled:
        return
    slots = plan.merge_embeddings(unit.features)
    for token in plan.kept[0]:
        members = np.flatnonzero(plan.anchor == token)
        np.testing.assert_allclose(slots[token], unit.features[members].astype(np.float64).mean(axis=0), atol=1e-5)


def square(side=4):
    return TokenLayout(np.array([(0, row, column) for row in range(side) for column in range(side)]))


def test_the_default_split_is_54_to_10():
    assert ContextualTokens().contextual == 10 / 64
    unit = replace(a_unit(square(16)), keys=np.random.default_rng(0).normal(size=(1, 256, 4)).astype(np.float32))
    importance = np.arange(256, dtype=np.float32)
    merged = ContextualTokens().merge_unit(importance, unit, 64)
    size = np.bincount(merged.anchor)
    assert merged.retained[-54:].all()
    assert (size[-54:] == 1).all()
    targets = np.flatnonzero(merged.retained[:-54])
    assert targets.tolist() == list(range(0, 200, 20))  # 202 tokens are left: every 20th of them
    assert size[targets].sum() == 202


def a_unit(layout):
    from vflowopt.components.attention import MatrixAttention
    from vflowopt.testing import HostUnit

    tokens = layout.tokens
    flat = np.full((1, tokens), 1 / tokens, dtype=np.float32)
    return HostUnit(
        attention=MatrixAttention(np.full((1, tokens, tokens), 1 / tokens)),
        entropy=flat,
        layout=layout,
        shares=np.eye(tokens, dtype=np.float32),
        class_attention=flat,
        earlier_class_attention=flat[:0, None],
        earlier_attention=np.zeros((0, 1, tokens, tokens), dtype=np.float32),
        keys=np.ones((1, tokens, 2), dtype=np.float32),
        values=np.ones((1, tokens, 2), dtype=np.float32),
        features=np.ones((tokens, 3), dtype=np.float32),
        text=np.ones((1, 3), dtype=np.float32),
    )


def test_equal_keys_join_the_first_target_and_targets_stay_themselves():
    merged = ContextualTokens(contextual=0.5).merge_unit(np.arange(16, dtype=np.float32), a_unit(square()), 6)
    assert merged.anchor.tolist() == [0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 0, 13, 14, 15]
    assert merged.weight[[0, 1, 4, 8, 15]].tolist() == pytest.approx([1 / 11, 1 / 11, 1, 1, 1])


def test_a_recycler_that_looks_at_the_unit_says_what_it_lacks():
    strategy = Strategy(
        scorer=DivPrune(), schedule=Progressive(stages=(0,), retention=(0.5,)), recycler=ContextualTokens()
    )
    with pytest.raises(InputError, match="recycler 'visionzip' looks at keys of a unit: plan with the unit's scoring"):
        strategy.plan(np.arange(16, dtype=np.float32), square())


def test_recyclers_of_others_need_no_context():
    """A recycler written against ``merge`` alone gets what it always got."""

    class Everything(GridRecycler):
        def merge(self, importance, layout, count):
            assert layout.tokens == 16
            return super().merge(importance, layout, count)

    assert issubclass(Everything, Recycler)
    unit, importance = a_unit(square()), np.arange(16, dtype=np.float32)
    schedule = Progressive(stages=(0,), retention=(0.5,))
    strategy = Strategy(scorer=DivPrune(), schedule=schedule, recycler=Everything(cell=2))
    assert Everything(cell=2).needs == frozenset()
    with_unit, without = (strategy.plan(importance, unit.layout, *more) for more in ((unit,), ()))
    assert with_unit.anchor.tolist() == without.anchor.tolist()


@pytest.mark.parametrize(
    ("text", "scorer", "recycler"),
    [
        ("fastervlm@0.25", FasterVLM(), None),
        ("divprune@0.25", DivPrune(), None),
        ("visionzip@0.25", VisionZip(), ContextualTokens()),
        ("visionzip@0.25,source=mean", VisionZip(source="mean"), ContextualTokens()),
        ("visionzip@0.25,cell=3.5", VisionZip(), GridRecycler(cell=3.5)),
    ],
)
def test_on_the_command_line(text, scorer, recycler):
    strategy = read_strategy(text)(28)
    assert (strategy.scorer, strategy.recycler) == (scorer, recycler)
    assert strategy.schedule == Progressive(stages=(0,), retention=(0.25,))
    assert Strategy.parse(strategy.to_json()) == strategy


def test_an_unknown_source_is_refused():
    with pytest.raises(StrategyError, match="source: should be 'class' or 'mean', got 'median'"):
        read_strategy("visionzip@0.25,source=median")
