"""SparseVLM's numbers by rank and its recycled tokens, against loops over float64."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from oracles import pruning
from oracles import sparsevlm as oracle
from support.backends import both_backends, host, to_backend
from vflowopt import Strategy, TokenLayout
from vflowopt.components.baselines import RandomTokens
from vflowopt.components.schedule import Progressive
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.methods import AdaptiveSparseVLM, DensityPeaks, FastV, SparseVLM, SparseVLMPlus
from vflowopt.methods.sparsevlm_adaptive import chosen_texts, fit, rank
from vflowopt.methods.sparsevlm_recycler import density_peaks
from vflowopt.plans.plan import StageMerge
from vflowopt.plans.planning import PlanDraft, make_plan
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import ConformanceError, pruning_cases
from vflowopt.testing.properties import require_valid_plan

LAYERS = 9


def unit(seed, tokens, structural=0):
    rng = np.random.default_rng(seed)
    received = rng.random((LAYERS, tokens))
    ranks = rng.integers(1, max(2, tokens // 3), LAYERS)
    return ReceivedAttention(received, received, np.arange(tokens) >= tokens - structural, ranks)


units = st.builds(unit, st.integers(0, 1000), st.integers(6, 60), st.integers(0, 2))


def floors_of(seen):
    """Mean over units of the share that is never dropped in each layer."""
    return [
        sum(int(one.ranks[layer]) / (len(one.structural) - sum(one.structural)) for one in seen) / len(seen)
        for layer in range(LAYERS)
    ]


@given(st.lists(units, min_size=1, max_size=3), st.booleans(), st.floats(0, 1))
@example([unit(0, 6, 0)], False, 1.0)  # the least budget, which differs in its last digit
def test_lambda_is_what_meets_the_budget(seen, every_layer, scale):
    scorer, floors = AdaptiveSparseVLM(every_layer=every_layer), floors_of(seen)
    stages = tuple(range(1, LAYERS)) if every_layer else (1, 2, 4)
    assert scorer.default_stages(LAYERS) == stages
    expected = oracle.shares(floors, stages, scale)
    budget = oracle.average(expected, stages, LAYERS)
    assume(budget < 1)
    schedule = scorer.fit_schedule(seen, budget)
    assert schedule.stages == stages
    np.testing.assert_allclose(schedule.cumulative, expected, atol=1e-9)
    assert abs(schedule.average_retention(LAYERS) - budget) < 1e-9


@given(st.lists(units, min_size=1, max_size=3), st.floats(1e-6, 1))
def test_a_unit_meets_the_budget_within_half_a_token(seen, share):
    stages = (1, 2, 4)
    least = oracle.average(oracle.shares(floors_of(seen), stages, 1.0), stages, LAYERS)
    budget = least + share * (1 - least)
    schedule = fit(seen, budget, stages)
    for tokens in (10, 577, 4000):
        counts = schedule.counts(tokens)
        shares = [count / tokens for count in counts]
        assert abs(oracle.average(shares, stages, LAYERS) - budget) * tokens <= 0.5 + 1e-6


def test_layers_of_lower_rank_lose_more():
    ranks = np.full(LAYERS, 30)
    ranks[1] = 2
    low = ReceivedAttention(np.zeros((LAYERS, 40)), np.zeros((LAYERS, 40)), np.zeros(40, dtype=bool), ranks)
    first, second, _ = fit([low], 0.6, (1, 2, 4)).retention
    assert second < first


def test_full_rank_is_never_pruned():
    ranks = np.full(LAYERS, 40)
    full = ReceivedAttention(np.zeros((LAYERS, 40)), np.zeros((LAYERS, 40)), np.zeros(40, dtype=bool), ranks)
    with pytest.raises(BudgetError, match=r"smallest feasible budget is 1\.0000"):
        fit([full], 0.9, (1, 2, 4))
    assert fit([full], 1.0, (1, 2, 4)).counts(40) == (40, 40, 40)


def test_nothing_to_fit_to_and_a_budget_alone():
    with pytest.raises(InputError, match="nothing to fit"):
        AdaptiveSparseVLM().fit_schedule([], 0.5)
    with pytest.raises(StrategyError, match=r"vflowopt fit --method sparsevlm-adaptive --budget 0\.5"):
        AdaptiveSparseVLM().schedule(0.5, 28)


@dataclass
class Layer:
    """A stage context over given attention [positions, visual tokens] and embeddings."""

    attention: np.ndarray
    entered: np.ndarray
    layout: TokenLayout
    text: np.ndarray

    @property
    def visual(self):
        return np.arange(self.layout.tokens)

    def embeddings(self, positions):
        return self.entered[positions]

    def received(self, queries, weights=None, *, heads="mean"):
        assert weights is None
        return self.attention[queries].sum(axis=0)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.integers(2, 9))
def test_the_rank_of_the_raters_attention(seed, texts, true_rank, columns):
    rng = np.random.default_rng(seed)
    position = np.array([(0, 0, column) for column in range(columns)] + [(-1, -1, -1)])
    layout, tokens = TokenLayout(position), columns + 1
    text = np.arange(tokens, tokens + texts)
    low = rng.normal(size=(texts, true_rank)) @ rng.normal(size=(true_rank, columns))
    attention = np.concatenate([np.zeros((tokens, tokens)), np.c_[low, rng.normal(size=texts)]]).astype(np.float32)
    layer = Layer(attention, rng.normal(size=(tokens + texts, 4)).astype(np.float32), layout, text)
    chosen = chosen_texts(layer)
    assert set(chosen) <= set(text)
    assert len(chosen) > 0
    expected, margin = oracle.rank_of(attention[chosen][:, :columns])
    assume(margin > 0.3)
    assert rank(layer, chosen) == expected <= min(true_rank, len(chosen), columns)


@given(st.integers(1, 400), st.integers(0, 200), st.floats(0.01, 1), st.floats(0.01, 1))
def test_numbers_fit_into_the_count(lost, free, tau, theta):
    members, clusters = DensityPeaks(recycled=tau, clusters=theta).numbers(lost, free)
    expected = oracle.numbers(lost, free, tau, theta)
    assert (members, clusters) == (expected if expected[1] else (0, 0))
    assert clusters <= min(free, members)
    assert members <= lost + clusters


def test_numbers_of_the_public_code():
    """Of 276 pruned tokens it recycles 83, into 9: so where a stage takes 576 to 309, 300 are kept and 9 made."""
    assert DensityPeaks().numbers(576 - 309, 309) == (83, 9)


@both_backends
@given(seed=st.integers(0, 10**6), size=st.integers(1, 14), share=st.floats(0, 1), scale=st.sampled_from([0.1, 1, 50]))
def test_density_peaks_against_loops(backend, seed, size, share, scale):
    count = max(1, round(share * size))
    vectors = (np.random.default_rng(seed).normal(size=(size, 5)) * scale).astype(np.float32)
    expected = oracle.cluster(vectors, count)
    assume(expected.margin > 1e-4 * max(1, scale**2))
    centres, own = density_peaks(to_backend(vectors, backend), count)
    assert host(centres).tolist() == expected.centres
    assert host(own).tolist() == expected.own


@both_backends
def test_clusters_that_are_plain_to_see(backend):
    corners = np.array([[0, 0], [1, 1], [-1, 1]], dtype=np.float32)
    near = np.repeat(corners, 4, axis=0) + np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32) / 100
    centres, own = density_peaks(to_backend(near, backend), 3)
    assert sorted(host(centres) // 4) == [0, 1, 2]
    assert (host(centres)[host(own)] // 4).tolist() == [0] * 4 + [1] * 4 + [2] * 4


@both_backends
def test_equal_vectors_make_clusters_all_the_same(backend):
    centres, own = density_peaks(to_backend(np.ones((6, 3), dtype=np.float32), backend), 2)
    assert len(set(host(centres).tolist())) == 2
    assert host(own)[host(centres)].tolist() == [0, 1]


@dataclass
class Counts:
    """As much of a schedule as a plan is checked against."""

    known: tuple

    def counts(self, tokens):
        return self.known


def expected_stage(case, worth, left, count, states, tau, theta):
    def recycler(values, tokens, slots):
        return oracle.recycle(values, tokens, slots, states, tau, theta)

    return pruning.stage(worth, case.position, case.separators, left, count, recycler, rated=left)


@both_backends
@given(case=pruning_cases(exact=True), seed=st.integers(0, 10**6), tau=st.floats(0.05, 1), theta=st.floats(0.05, 1))
def test_every_stage_recycles_what_it_prunes(backend, case, seed, tau, theta):
    """Counts, partition and weights of every stage, and the stage itself where nothing hangs on rounding."""
    rng = np.random.default_rng(seed)
    tokens, recycler = case.layout.tokens, DensityPeaks(recycled=tau, clusters=theta)
    stages = tuple(stage + 1 for stage in case.stages)
    unknown = to_backend(np.zeros(tokens, dtype=np.float32), backend)
    draft = PlanDraft.start(unknown, case.layout, stages, case.counts, recycler, separators=case.separators)
    left = set(range(tokens))
    for stage, count in enumerate(case.counts):
        states = rng.normal(size=(tokens, 5)).astype(np.float32)
        worth = rng.permutation(tokens).astype(np.float32)
        asked = []

        def hidden(wanted, states=states, asked=asked):
            asked.append(set(host(wanted).tolist()))
            return to_backend(states, backend)[wanted]

        draft = draft.ranked_by(to_backend(worth, backend)).decide(hidden)
        retained = set(host(draft.plan.kept[-1]).tolist())
        merge = draft.plan.merge_at(stage)
        if count == len(left):
            assert merge is None
            assert not asked
        elif merge is None:  # only separators go
            assert case.layout.structural[sorted(left - retained)].all()
        else:
            expected = expected_stage(case, worth, sorted(left), count, states, tau, theta)
            assert all(one <= left for one in asked)
            if expected.margin > 1e-4:
                assert host(merge.anchor).tolist() == list(expected.anchor.values())
                np.testing.assert_allclose(host(merge.weight), list(expected.weight.values()), rtol=1e-6)
                assert retained == expected.retained
        left = retained
    plan = draft.plan.to_host()
    require_valid_plan(plan, Strategy.model_construct(schedule=Counts(case.counts), separators=case.separators))
    merged, last = plan.is_merged(), set(plan.kept[-1].tolist())
    expected_fates = ["kept" if i in last else "merged" if merged[i] else "dropped" for i in range(tokens)]
    assert plan.fates() == expected_fates
    assert all(isinstance(merge, StageMerge) for merge in plan.later.values())


BROKEN = {
    "weights": (lambda anchor, weight: (anchor, weight * 2), "do not sum to 1"),
    "negative": (lambda anchor, weight: (anchor, -weight), "a weight is negative"),
    "chain": (lambda anchor, weight: (np.roll(anchor, 1), weight), "anchor"),
    "ghost": (lambda anchor, weight: (np.where(anchor < 0, anchor.max(), anchor), weight), "pruned before"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_wrong_merges_at_later_stages_are_told(what):
    layout = TokenLayout(np.array([(0, 0, column) for column in range(40)]))
    states = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    draft = PlanDraft.start(np.arange(40, dtype=np.float32), layout, (1, 2), (30, 12), DensityPeaks())
    plan = draft.decide(states.__getitem__).decide(states.__getitem__).plan
    strategy = Strategy.model_construct(schedule=Counts((30, 12)))
    require_valid_plan(plan, strategy)
    change, complaint = BROKEN[what]
    broken = StageMerge(*change(plan.later[1].anchor, plan.later[1].weight))
    with pytest.raises(ConformanceError, match=complaint):
        require_valid_plan(replace(plan, later={1: broken}), strategy)


def test_a_plan_alone_cannot_recycle_inside_the_decoder():
    layout = TokenLayout(np.array([(0, 0, column) for column in range(6)]))
    with pytest.raises(InputError, match="'density-peaks' merges by hidden states inside the decoder"):
        make_plan(np.ones(6, dtype=np.float32), layout, (2,), (3,), DensityPeaks())


def test_only_stages_that_recycle_wait_for_the_decoder():
    layout = TokenLayout(np.array([(0, 0, column) for column in range(40)]))
    schedule = Progressive(stages=(0, 2, 3), retention=(1.0, 1.0, 0.5))
    strategy = Strategy(scorer=RandomTokens(), schedule=schedule, recycler=DensityPeaks())
    draft = strategy.draft(np.ones(40, dtype=np.float32), layout)
    assert draft.stage == 2
    assert draft.decide(lambda tokens: np.ones((len(tokens), 3), dtype=np.float32)).plan.later.keys() == {2}


def test_recycling_is_part_of_the_method():
    assert SparseVLM().usual_recycler == AdaptiveSparseVLM().usual_recycler == DensityPeaks()
    assert read_strategy("sparsevlm@0.25")(9).recycler == DensityPeaks()
    assert read_strategy("sparsevlm@0.25,recycler=none")(9).recycler is None
    own = read_strategy("fastv@0.5,recycler=density-peaks")(9)
    assert (own.scorer, own.recycler) == (FastV(), DensityPeaks())
    with pytest.raises(StrategyError, match=r"no recycler is called 'some' .* density-peaks, .* none"):
        read_strategy("fastv@0.5,recycler=some")
    with pytest.raises(StrategyError, match="without a recycler there is no cell"):
        read_strategy("fastv@0.5,recycler=none,cell=3")
    assert Strategy.parse(own.to_json()) == own


class Given:
    """A stage's context whose attention and nearness are given: [heads, texts, N] and [texts, N]."""

    def __init__(self, attention, closeness, features, structural, backend):
        self.layout = TokenLayout(
            np.array([(-1,) * 3 if own else (0, 0, column) for column, own in enumerate(structural)])
        )
        self.attention, self.closeness, self.features, self.backend = attention, closeness, features, backend
        self.visual, self.text = np.arange(closeness.shape[1]), np.arange(closeness.shape[1], len(features))

    def embeddings(self, positions):
        return self.place(self.features[positions])

    def rotary_closeness(self, queries):
        assert queries is self.text
        return self.place(self.closeness)

    def received_by_head(self, queries, weights):
        assert queries is self.text
        return self.place((self.attention * host(weights)).sum(axis=1).astype(np.float32))

    def place(self, array):
        return to_backend(array, self.backend)


@both_backends
@pytest.mark.parametrize("voters", [14 / 32, 0.01, 1.0])
def test_votes_are_those_of_loops_and_stay_numbers_where_nearness_is_0(backend, voters):
    heads, texts, tokens = 8, 5, 12
    rng = np.random.default_rng(3)
    attention = rng.random((heads, texts, tokens)).astype(np.float32)
    closeness = rng.uniform(0.2, 1, (texts, tokens)).astype(np.float32)
    features = rng.standard_normal((tokens + texts, 6)).astype(np.float32)
    structural = np.arange(tokens) % 5 == 4
    plain = Given(attention, closeness, features, structural, backend)
    found = host(SparseVLMPlus(voters=voters).rescore(plain))

    chosen = [row - tokens for row in oracle.raters(features, np.flatnonzero(~structural), plain.text)]
    sums = sum(attention[:, rater] / closeness[rater] for rater in chosen)
    by_size = sorted(range(heads), key=lambda head: -sums[head][~structural].sum())
    np.testing.assert_allclose(found, sums[by_size[: max(1, round(voters * heads))]].mean(axis=0), rtol=1e-5)

    closeness[chosen[0], 7] = 0
    found = host(SparseVLMPlus(voters=voters).rescore(plain))
    assert np.isfinite(found).all()
    assert found.argmax() == 7
