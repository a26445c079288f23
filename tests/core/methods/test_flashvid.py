"""FlashVID against loops in float64; NumPy and torch alike."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import newer_methods as oracle
from support.backends import both_backends, host, to_backend
from support.units import Unit, tokens_of
from vflowopt import Progressive, Strategy, TokenLayout
from vflowopt.errors import StrategyError
from vflowopt.methods import FlashVID, SpatiotemporalTrees
from vflowopt.methods.flashvid import chosen_order
from vflowopt.methods.flashvid_recycler import clusters
from vflowopt.methods.video_frames import Frames, segments
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import host_units, require_valid_plan, seeds, separators

CLEAR = 1e-5
"""Closer choices are made by rounding in float32."""


@st.composite
def clips(draw):
    """Tokens of frames of several sizes, in any order, that change a little from one frame to the next."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(seeds))
    views = np.repeat(np.arange(len(sizes)), sizes)
    columns = np.concatenate([np.arange(size) for size in sizes])
    scene = rng.normal(size=(len(sizes), 7, 5)) * (rng.random((len(sizes), 1, 1)) < 0.3)
    scene = np.cumsum(scene, axis=0) + rng.normal(size=(7, 5)) + 1
    change = draw(st.sampled_from([0.05, 0.3, 1.0]))
    features = scene[views, columns] + change * rng.normal(size=(len(views), 5))
    order = rng.permutation(len(views)) if draw(st.booleans()) else np.arange(len(views))
    layout = TokenLayout(np.stack([views, 0 * views, columns], axis=1)[order])
    return layout, features[order].astype(np.float32), rng.random(len(views)).astype(np.float32)


@both_backends
@given(clip=clips(), least=st.integers(1, 7), data=st.data())
def test_a_frame_is_represented_by_what_the_loop_chooses(backend, clip, least, data):
    layout, features, attention = clip
    count = data.draw(st.integers(1, layout.tokens))
    like = to_backend(features, backend)
    frames = Frames.of(layout, like)
    order = host(chosen_order(to_backend(attention, backend), like, frames, count, least)).tolist()
    assert sorted(order) == list(range(layout.tokens))
    views = layout.position[:, 0]
    expected, margin = oracle.representative(attention, features, views, count, least)
    assume(margin > CLEAR)
    chosen = order[:count]
    assert [[i for i in chosen if i in frame] for frame in oracle.framed(views)] == expected


@both_backends
@given(unit=host_units(), least=st.integers(1, 3), data=st.data())
def test_the_scorer_ranks_tokens_that_have_a_patch(backend, unit, least, data):
    scorer, layout = FlashVID(segments=least), unit.layout
    assert scorer.needs == {"features", "saliency"}
    tokens = np.flatnonzero(~layout.structural)
    importance = scorer.score_retaining(Unit(unit, backend, ("features", "saliency")), layout.tokens).importance
    assert host(importance).dtype == np.float32
    assert (host(importance)[layout.structural] == 0).all()
    if not len(tokens):
        return
    count = data.draw(st.integers(1, len(tokens)))
    attention = tokens_of(unit, unit.class_attention)[tokens]
    views = layout.position[tokens, 0]
    expected, margin = oracle.representative(attention, unit.features[tokens], views, count, least)
    assume(margin > 1e-4)
    best = np.argsort(-host(importance)[tokens], kind="stable")[:count]
    assert set(best.tolist()) == {i for frame in expected for i in frame}


@both_backends
@given(clip=clips(), least=st.integers(1, 7), selected=st.floats(0, 1), similarity=st.floats(0.5, 1), data=st.data())
def test_merging_grows_the_trees_of_the_loop(backend, clip, least, selected, similarity, data):
    layout, features, importance = clip
    assume(layout.tokens > 1)
    count = data.draw(st.integers(1, layout.tokens - 1))
    recycler = SpatiotemporalTrees(selected=selected, similarity=similarity, segments=least)
    assert recycler.needs == {"features"}
    merge = recycler.merge_unit(to_backend(importance, backend), Offered(layout, to_backend(features, backend)), count)
    retained, anchor, weight = host(merge.retained), host(merge.anchor), host(merge.weight)
    assert retained.sum() == count
    kept = set(np.argsort(-importance, kind="stable")[: int(np.floor(selected * count + 0.5))].tolist())
    views = layout.position[:, 0]
    expected, margin = oracle.grown(features, views, kept, count, similarity, least)
    assert len(expected) == count
    assume(margin > CLEAR)
    assert set(np.flatnonzero(retained).tolist()) == set(expected)
    for token in range(layout.tokens):
        slots = {slot: members[token] for slot, members in expected.items() if token in members}
        assert len(slots) <= 1
        assert anchor[token] == next(iter(slots), -1)
        assert weight[token] == pytest.approx(next(iter(slots.values()), 0.0), rel=1e-6)


class Offered:
    """The part of a scoring context that the recycler says it needs."""

    def __init__(self, layout, features):
        self.layout, self.features = layout, features


@given(clip=clips(), data=st.data())
def test_every_slot_is_a_mean(clip, data):
    """Weights of a slot sum to 1; every token goes where tokens of its tree go, and never to a later frame."""
    layout, features, importance = clip
    assume(layout.tokens > 1)
    count = data.draw(st.integers(1, layout.tokens - 1))
    merge = SpatiotemporalTrees(segments=1).merge_unit(importance, Offered(layout, features), count)
    used = merge.anchor >= 0
    slots = np.bincount(merge.anchor[used], merge.weight[used], minlength=layout.tokens)
    np.testing.assert_allclose(slots, merge.retained, atol=1e-6)
    views = layout.position[:, 0]
    assert (views[merge.anchor[used]] <= views[used]).all()


@both_backends
def test_what_stands_still_becomes_one_token_of_the_first_frame(backend):
    """Three frames of two tokens each, one of which stays the same: one tree; the other is anew every time."""
    places = np.array([(frame, 0, column) for frame in range(3) for column in range(2)])
    features = np.array([[9, 0, 0, 0], [9, 1, 0, 0], [9, 0, 0, 0], [9, 0, 0, 6], [9, 0, 0, 0], [9, 0, 6, 0]])
    features = to_backend(features.astype(np.float32), backend)
    recycler = SpatiotemporalTrees(selected=0, similarity=0.99999, segments=1)
    merge = recycler.merge_unit(features[:, 0], Offered(TokenLayout(places), features), 4)
    assert host(merge.anchor).tolist() == [0, 1, 0, 3, 0, 5]
    np.testing.assert_allclose(host(merge.weight), [1 / 3, 1, 1 / 3, 1, 1 / 3, 1])


@both_backends
def test_videos_are_cut_where_they_change_and_eight_times_at_least(backend):
    turn = np.array([0.0, 0.1, 0.2, 1.2, 1.25, 1.3, 1.4, 2.8])
    means = to_backend(np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32), backend)
    assert host(segments(means, 1)).tolist() == [0, 0, 0, 1, 1, 1, 1, 2]
    assert host(segments(means, 8)).tolist() == list(range(8))
    assert host(segments(means[:1, :], 8)).tolist() == [0]
    assert FlashVID().segments == SpatiotemporalTrees().segments == 8


@both_backends
@given(seed=seeds, frames=st.integers(1, 4), places=st.integers(1, 6), data=st.data())
def test_no_cluster_crosses_frames_and_no_slot_is_lost(backend, seed, frames, places, data):
    rng = np.random.default_rng(seed)
    valid = rng.random((frames, places)) < 0.7
    valid[0, 0] = True
    count = data.draw(st.integers(1, int(valid.sum())))
    vectors = rng.integers(0, 2, (frames, places, 2)).astype(np.float32)  # many equal ones
    centre, share = (host(v) for v in clusters(to_backend(vectors, backend), to_backend(valid, backend), count))
    assert len(set(centre[valid].tolist()) - {-1}) == count
    assert (centre[~valid] == -1).all()
    for frame in range(frames):
        own = centre[frame][valid[frame]]
        assert ((own == -1) | (own // places == frame)).all()
        for slot in set(own.tolist()) - {-1}:
            assert share[frame][valid[frame]][own == slot].sum() == pytest.approx(1)
            assert centre.reshape(-1)[slot] == slot


@given(unit=host_units(), data=st.data())
def test_plans_are_valid(unit, data):
    tokens = unit.layout.tokens
    count = data.draw(st.integers(1, tokens))
    scorer = FlashVID(segments=data.draw(st.integers(1, 4)))
    recycler = data.draw(st.none() | st.builds(SpatiotemporalTrees, selected=st.floats(0, 1)))
    schedule = Progressive(stages=(0,), retention=(count / tokens,))
    strategy = Strategy(scorer=scorer, schedule=schedule, recycler=recycler, separators=data.draw(separators))
    require_valid_plan(strategy.plan(scorer.score_retaining(unit, count).importance, unit.layout, unit), strategy)


def test_on_the_command_line():
    strategy = read_strategy("flashvid@0.25,segments=3")(28)
    assert (strategy.scorer, strategy.recycler) == (FlashVID(segments=3), SpatiotemporalTrees(segments=3))
    assert strategy.schedule == Progressive(stages=(0,), retention=(0.25,))
    assert Strategy.parse(strategy.to_json()) == strategy
    assert read_strategy("flashvid@0.25,recycler=none")(28).recycler is None
    assert read_strategy("mean-attention@0.25,recycler=flashvid")(28).recycler == SpatiotemporalTrees()
    with pytest.raises(StrategyError, match="segments"):
        read_strategy("flashvid@0.25,segments=0")
