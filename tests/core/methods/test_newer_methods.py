"""VisPruner, LRCP, CDPruner, EVS and VidCom2 against loops in float64; NumPy and torch alike."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import newer_methods as oracle
from support.backends import both_backends, host, to_backend
from support.units import Unit, tokens_of
from vflowopt import Progressive, Strategy, TokenLayout
from vflowopt.errors import StrategyError
from vflowopt.methods import EVS, LRCP, CDPruner, HiPrune, VidCom2, VisPruner
from vflowopt.methods.cdpruner import conditional_order
from vflowopt.methods.hiprune import hierarchical_order, neighbours
from vflowopt.methods.lrcp import residual
from vflowopt.methods.vidcom2 import apportioned
from vflowopt.methods.vispruner import chosen_order
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import host_units, require_valid_plan, seeds

CLEAR = 1e-5
"""Closer choices are made by rounding in float32."""

SCORERS = [
    VisPruner(),
    VisPruner(important=0),
    LRCP(),
    LRCP(rank=2),
    CDPruner(),
    CDPruner(negative=True),
    HiPrune(),
    HiPrune(alpha=1),
    EVS(),
    VidCom2(),
]


def first(importance, tokens, count):
    """The tokens that any stage retains which retains so many."""
    return tokens[np.argsort(-host(importance)[tokens], kind="stable")[:count]].tolist()


@both_backends
@given(seed=seeds, tokens=st.integers(1, 70), data=st.data())
def test_vispruner_removes_what_the_rounds_remove(backend, seed, tokens, data):
    rng = np.random.default_rng(seed)
    attention, features = rng.random(tokens).astype(np.float32), rng.normal(size=(tokens, 5)).astype(np.float32)
    count = data.draw(st.integers(0, tokens))
    important = data.draw(st.integers(0, count))
    order = host(chosen_order(to_backend(attention, backend), to_backend(features, backend), count, important)).tolist()
    assert sorted(order) == list(range(tokens))
    expected, margin = oracle.vispruner(attention, features, count, important)
    assume(margin > 1e-6)
    assert len(expected) == count
    assert set(order[:count]) == expected
    for part in (order[:count], order[count:]):
        assert part == sorted(part, key=lambda token: -attention[token])


@both_backends
@given(unit=host_units(), data=st.data())
def test_vispruner_ranks_a_unit(backend, unit, data):
    tokens = np.flatnonzero(~unit.layout.structural)
    scorer = VisPruner(important=data.draw(st.floats(0, 1)), source=data.draw(st.sampled_from(["auto", "mean"])))
    count = data.draw(st.integers(0, len(tokens)))
    offered = {"auto": ("saliency", "features"), "mean": ("attention", "features")}[scorer.source]
    importance = scorer.score_retaining(Unit(unit, backend, offered), count).importance
    received = unit.attention.received()
    attention = tokens_of(unit, unit.class_attention if scorer.source == "auto" else received)[tokens]
    important = int(np.floor(scorer.important * count))
    expected, margin = oracle.vispruner(attention, unit.features[tokens], count, important)
    assume(margin > 1e-6)
    assert set(first(importance, tokens, count)) == set(tokens[sorted(expected)].tolist())


@both_backends
@given(unit=host_units(max_side=7), alpha=st.floats(0, 1), layer=st.floats(0.01, 1), data=st.data())
def test_hiprune_keeps_anchors_buffers_and_registers(backend, unit, alpha, layer, data):
    scorer, layout = HiPrune(alpha=alpha, layer=layer), unit.layout
    assert scorer.needs == {"attention", "layer-attention"}
    middle = max(1, round(layer * unit.vision_depth + 1e-12)) - 1  # the halves that round() would take down
    assume(abs(layer * unit.vision_depth % 1 - 0.5) > 1e-6)
    assert scorer.attention_layers(unit.vision_depth) == {middle}
    tokens = np.flatnonzero(~layout.structural)
    count = data.draw(st.integers(0, len(tokens)))
    importance = scorer.score_retaining(Unit(unit, backend, ("attention", "layer_attention", "vision_depth")), count)
    early = tokens_of(unit, unit.layer_attention(middle).received())[tokens]
    late = tokens_of(unit, unit.attention.received())[tokens]
    assume(min(oracle.descending(values, range(len(tokens)))[1] for values in (early, late)) > CLEAR)
    expected = oracle.hierarchical(early, late, layout.position[tokens].tolist(), count, alpha)
    assert set(first(importance.importance, tokens, count)) == {int(tokens[token]) for token in expected}


def test_hiprune_counts_as_published():
    """64 of 576 tokens: one anchor with four buffers, 59 registers. CLIP's layer 9 of the 23 that LLaVA uses."""
    assert HiPrune().middle(23) == 9 - 1
    places = np.array([(0, row, column) for row in range(24) for column in range(24)])
    assert neighbours(TokenLayout(places))[25].tolist() == [1, 49, 24, 26]
    assert neighbours(TokenLayout(places))[23].tolist() == [23, 47, 22, 23]  # none beyond the edges
    rng = np.random.default_rng(0)
    early, late = rng.random(576).astype(np.float32), rng.random(576).astype(np.float32)
    early[25], late[[1, 49, 24, 26]] = 2, 0
    order = hierarchical_order(early, late, neighbours(TokenLayout(places)), 1)
    assert set(order[:5].tolist()) == {25, 1, 49, 24, 26}
    assert order[5:64].tolist() == np.argsort(-np.where(early == 2, 0, late), kind="stable")[:59].tolist()


@both_backends
@given(seed=seeds, tokens=st.integers(1, 20), width=st.integers(1, 20), rank=st.integers(0, 25))
def test_lrcp_is_the_distance_from_the_principal_components(backend, seed, tokens, width, rank):
    features = np.random.default_rng(seed).normal(size=(tokens, width)).astype(np.float32) + 1
    actual = host(residual(to_backend(features, backend), rank))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, oracle.residuals(features, rank), rtol=1e-3, atol=5e-3)


@both_backends
@given(unit=host_units(), rank=st.integers(0, 8))
def test_lrcp_ranks_tokens_that_have_a_patch(backend, unit, rank):
    assert LRCP().needs == {"features"}
    tokens = np.flatnonzero(~unit.layout.structural)
    importance = host(LRCP(rank=rank).score(Unit(unit, backend, ("features",))).importance)
    assert (importance[unit.layout.structural] == 0).all()
    if len(tokens):
        expected = oracle.residuals(unit.features[tokens], rank)
        np.testing.assert_allclose(importance[tokens], expected, rtol=1e-3, atol=5e-3)


@both_backends
@given(unit=host_units(), negative=st.booleans(), data=st.data())
def test_cdpruner_chooses_by_determinants(backend, unit, negative, data):
    scorer, tokens = CDPruner(negative=negative), np.flatnonzero(~unit.layout.structural)
    assert scorer.needs == {"features", "text"}
    count = data.draw(st.integers(0, min(5, len(tokens))))
    importance = scorer.score_retaining(Unit(unit, backend, ("features", "text")), count).importance
    assert len(set(host(importance)[tokens].tolist())) == len(tokens)
    if count:
        chosen, margin = oracle.conditional(unit.features[tokens], unit.text, negative, count)
        assume(margin > 1e-3)
        assert first(importance, tokens, count) == tokens[chosen].tolist()


@both_backends
def test_when_all_dimensions_are_spanned_relevance_decides(backend):
    """Eight tokens in a plane: two of them span it, the others follow by relevance, not by rounding."""
    angle = np.linspace(0, 1.5, 8)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    relevance = np.array([0.2, 0.9, 0.3, 0.8, 0.4, 0.7, 0.5, 0.6], dtype=np.float32)
    order = host(conditional_order(to_backend(relevance, backend), to_backend(directions, backend), 8)).tolist()
    assert sorted(order) == list(range(8))
    assert order[0] == 1
    assert order[2:] == sorted(order[2:], key=lambda token: -relevance[token])


def video(frames, rows, columns):
    """Frames of one size, a separator after each."""
    places = []
    for frame in range(frames):
        places += [(frame, row, column) for row in range(rows) for column in range(columns)] + [(-1, -1, -1)]
    return TokenLayout(np.array(places))


@both_backends
@given(unit=host_units())
def test_evs_ranks_by_change_after_the_first_frame(backend, unit):
    assert EVS().needs == {"features"}
    importance = host(EVS().score(Unit(unit, backend, ("features",))).importance)
    assert importance.dtype == np.float32
    for token, expected in enumerate(oracle.changed(unit.features, unit.layout.position)):
        if expected is None:
            assert importance[token] == 0
        elif expected == np.inf:
            assert 2 < importance[token] < 3
        else:
            assert importance[token] == pytest.approx(expected, abs=CLEAR)


def test_evs_keeps_what_moves():
    layout = video(3, 2, 4)
    rng = np.random.default_rng(0)
    features = np.tile(rng.normal(size=(9, 6)), (3, 1)).astype(np.float32)
    features[9 + 5] = -features[9 + 5]  # changes in the second frame, and back in the third
    unit = replace(next_unit(), layout=layout, features=features)
    importance = EVS().score(unit).importance
    assert set(np.argsort(-importance, kind="stable")[:10].tolist()) == {*range(8), 14, 23}
    first, second = layout.position[np.argsort(-importance, kind="stable")[:2], 1]
    assert {first, second} == {0, 1}  # a token of each row, not the first two


def next_unit():
    from vflowopt.components.attention import MatrixAttention
    from vflowopt.testing import HostUnit

    flat = np.full((1, 4), 0.25, dtype=np.float32)
    return HostUnit(
        attention=MatrixAttention(np.full((1, 4, 4), 0.25)),
        entropy=flat,
        layout=TokenLayout(np.array([[0, 0, i] for i in range(4)])),
        shares=np.eye(4, dtype=np.float32),
        class_attention=flat,
        earlier_class_attention=flat[:0, None],
        earlier_attention=np.zeros((0, 1, 4, 4), dtype=np.float32),
        keys=np.ones((1, 4, 2), dtype=np.float32),
        values=np.ones((1, 4, 2), dtype=np.float32),
        features=np.ones((4, 6), dtype=np.float32),
        text=np.ones((1, 6), dtype=np.float32),
    )


@both_backends
@given(seed=seeds, frames=st.integers(1, 5), rows=st.integers(1, 3), columns=st.integers(1, 4), data=st.data())
def test_vidcom2_gives_unique_frames_more(backend, seed, frames, rows, columns, data):
    assert VidCom2().needs == {"features"}
    layout = video(frames, rows, columns)
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(layout.tokens, 8)) + 3 * rng.normal(size=8)).astype(np.float32)
    unit, tokens = replace(next_unit(), layout=layout, features=features), np.flatnonzero(~layout.structural)
    count = data.draw(st.integers(1, len(tokens)))
    importance = VidCom2().score(Unit(unit, backend, ("features",))).importance
    expected, taken, margin = oracle.commander(features[tokens], layout.position[tokens, 0], count)
    assume(margin > 1e-4)
    assert sum(taken.values()) == count
    assert set(first(importance, tokens, count)) == {int(tokens[i]) for i in expected}


@both_backends
@given(data=st.data(), seed=seeds)
def test_every_frame_gets_its_share_of_every_count(backend, data, seed):
    """Webster's condition: no frame has a token that another one has the better claim to."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    frame = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(seed)
    frame = rng.permutation(frame)
    order = host(
        apportioned(
            to_backend(rng.random(len(frame)).astype(np.float32), backend),
            to_backend(np.ones(len(sizes), dtype=np.float32), backend),
            frame,
        )
    )
    assert sorted(order.tolist()) == list(range(len(frame)))
    for count in range(1, len(frame) + 1):
        taken = np.bincount(frame[order[:count]], minlength=len(sizes))
        assert taken.sum() == count
        claims = (taken + 0.5) / sizes  # of the next token: the less, the better
        assert ((taken - 0.5) / sizes).max() <= min(claims[taken < sizes], default=np.inf) + CLEAR


@given(unit=host_units(), data=st.data())
def test_counts_are_exact(unit, data):
    tokens = unit.layout.tokens
    count = data.draw(st.integers(1, tokens))
    scorer = data.draw(st.sampled_from(SCORERS))
    strategy = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(count / tokens,)))
    require_valid_plan(strategy.plan(scorer.score_retaining(unit, count).importance, unit.layout), strategy)


@given(unit=host_units(), scorer=st.sampled_from(SCORERS))
def test_equal_tokens_are_told_apart_by_their_place_alone(unit, scorer):
    """Nothing else tells them apart, so twice the same gives the same."""
    alike = replace(unit, features=np.ones_like(unit.features), class_attention=np.ones_like(unit.class_attention))
    count = max(1, alike.layout.tokens // 2)
    once, again = (scorer.score_retaining(alike, count).importance for _ in range(2))
    assert np.isfinite(once).all()
    assert (once == again).all()


@pytest.mark.parametrize(
    ("text", "scorer"),
    [
        ("vispruner@0.25,important=0.3", VisPruner(important=0.3)),
        ("lrcp@0.25,rank=4", LRCP(rank=4)),
        ("cdpruner@0.25,negative=true", CDPruner(negative=True)),
        ("hiprune@0.25,alpha=0.2,layer=0.5", HiPrune(alpha=0.2, layer=0.5)),
        ("evs@0.25", EVS()),
        ("vidcom2@0.25", VidCom2()),
    ],
)
def test_on_the_command_line(text, scorer):
    strategy = read_strategy(text)(28)
    assert (strategy.scorer, strategy.recycler) == (scorer, None)
    assert strategy.schedule == Progressive(stages=(0,), retention=(0.25,))
    assert Strategy.parse(strategy.to_json()) == strategy


@pytest.mark.parametrize("text", ["vispruner@0.25,important=2", "lrcp@0.25,rank=-1", "cdpruner@0.25,negative=maybe"])
def test_wrong_options_are_refused(text):
    with pytest.raises(StrategyError, match=text.partition(",")[2].partition("=")[0]):
        read_strategy(text)
