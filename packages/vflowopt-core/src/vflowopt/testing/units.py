"""Hypothesis strategies for what is composed: schedules, whole strategies, units that scorers can look at, plans."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from vflowopt import PruningPlan, Strategy, TokenLayout
from vflowopt.components import Scorer
from vflowopt.components.attention import AttentionSource, MatrixAttention
from vflowopt.components.baselines import LowResolution, RandomTokens, UniformGrid
from vflowopt.components.greedy import Greedy, choose_greedily
from vflowopt.components.mass import LogMass
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.mmr import MMR
from vflowopt.methods.scope import SCOPE
from vflowopt.methods.visionzip import ContextualTokens, VisionZip
from vflowopt.testing.strategies import Floats, attention_matrices, layouts, seeds, separators, sides


@st.composite
def schedules(draw: st.DrawFn, max_layers: int = 40) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """(stages, ratios, num_layers), any number of stages, the first not always before the LLM."""
    num_layers = draw(st.integers(1, max_layers))
    stages = draw(_stages(num_layers))
    ratios = draw(st.lists(st.floats(0.01, 1.0), min_size=len(stages), max_size=len(stages)))
    return stages, tuple(ratios), num_layers


def _stages(num_layers: int) -> st.SearchStrategy[tuple[int, ...]]:
    numbers = st.sets(st.integers(0, num_layers - 1), min_size=1, max_size=min(4, num_layers))
    return numbers.map(lambda chosen: tuple(sorted(chosen)))


def scorers() -> st.SearchStrategy[Scorer]:
    """The method's scorer with thresholds and entropy weights that matter, baselines, and what other papers rank by.

    None of them needs what only some models offer.
    """
    return st.one_of(
        st.builds(
            CalibratedAttention,
            threshold=st.one_of(st.just(0.0), st.floats(0.5, 40)),
            entropy_weight=st.one_of(st.just(0.0), st.floats(0.01, 100)),
            diversity=st.one_of(st.just(0.0), st.floats(0.01, 1)),
        ),
        st.builds(RandomTokens, seed=st.integers(0, 2**31)),
        st.just(UniformGrid()),
        st.just(LowResolution()),
        st.just(DivPrune()),
        st.builds(MMR, relevance=st.floats(0, 1)),
        st.builds(SCOPE, alpha=st.sampled_from([0.0, 0.5, 1.0])),
        st.just(VisionZip(source="mean")),
    )


@st.composite
def pruning_strategies(draw: st.DrawFn, num_layers: int = 6) -> Strategy:
    """Any strategy whose scorer all families serve; each fits every unit.

    Some recyclers and masses look at the unit: plan with its context.
    """
    stages = draw(_stages(num_layers))
    kept = draw(st.lists(st.floats(1e-3, 1.0), min_size=len(stages), max_size=len(stages)))
    return Strategy(
        scorer=draw(scorers()),
        schedule=Progressive.from_cumulative(stages, sorted(kept, reverse=True)),
        recycler=draw(
            st.one_of(
                st.none(),
                st.builds(GridRecycler, cell=sides),
                st.builds(ContextualTokens, contextual=st.floats(0, 1)),
            )
        ),
        mass=draw(st.none() | st.builds(LogMass, gamma=st.floats(0, 1), weighted=st.booleans())),
        separators=draw(separators),
    )


@dataclass(frozen=True, eq=False)
class HostUnit:
    """A :class:`vflowopt.components.ScoringContext` over NumPy arrays, whose tokens are means of patches.

    Attributes:
        attention: of [views, patches].
        entropy: float32 [views, patches].
        layout: of N tokens.
        shares: float32 [N, views * patches], each token's share of every patch; 0 where structural.
        class_attention: float32 [views, patches], of the last vision layer.
        earlier_class_attention: float32 [layers, views, patches], of those before it; there may be none.
        earlier_attention: float32 [layers, views, patches, patches], of the same layers.
        keys: float32 [views, patches, head_dim].
        values: float32 [views, patches, heads * head_dim].
        features: float32 [N, D].
        text: float32 [texts, D], at least one.
    """

    attention: AttentionSource
    entropy: Floats
    layout: TokenLayout
    shares: Floats
    class_attention: Floats
    earlier_class_attention: Floats
    earlier_attention: Floats
    keys: Floats
    values: Floats
    features: Floats
    text: Floats

    @property
    def saliency(self) -> Floats:
        """The class attention."""
        return self.class_attention

    @property
    def vision_depth(self) -> int:
        """Vision layers."""
        return 1 + len(self.earlier_class_attention)

    def class_attentions(self, layers: int) -> Floats:
        """float32 [layers, views, patches]."""
        every = np.concatenate([self.earlier_class_attention, self.class_attention[None]])
        return every[self.vision_depth - layers :]

    def layer_attention(self, layer: int) -> AttentionSource:
        """Of a vision layer, numbered from 0."""
        return self.attention if layer == self.vision_depth - 1 else MatrixAttention(self.earlier_attention[layer])

    def place(self, host: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array itself."""
        return host

    def to_tokens(self, patch_map: Floats) -> Floats:
        """float32 [N] from [views, patches]."""
        tokens: Floats = self.shares @ patch_map.reshape(-1)
        return tokens

    @property
    def choose_greedily(self) -> Greedy:
        """In NumPy."""
        return choose_greedily


@st.composite
def host_units(draw: st.DrawFn, max_side: int = 5) -> HostUnit:
    """A whole unit: attention, entropy, layout and the way from patches to tokens, which may merge or interpolate."""
    layout = draw(layouts(max_grids=3, max_side=max_side))
    views, patches, earlier = draw(st.integers(1, 3)), draw(st.integers(1, 30)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(seeds))
    shares = rng.random((layout.tokens, views * patches)) * (rng.random((layout.tokens, views * patches)) < 0.3)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-6)
    shares[layout.structural] = 0
    return HostUnit(
        attention=MatrixAttention(draw(attention_matrices(shape=(views, patches)))),
        entropy=(rng.random((views, patches)) * np.log(256)).astype(np.float32),
        layout=layout,
        shares=shares.astype(np.float32),
        class_attention=rng.dirichlet(np.ones(patches), views).astype(np.float32),
        earlier_class_attention=rng.dirichlet(np.ones(patches), (earlier, views)).astype(np.float32),
        earlier_attention=rng.dirichlet(np.ones(patches), (earlier, views, patches)).astype(np.float32),
        keys=rng.normal(size=(views, patches, 4)).astype(np.float32),
        values=rng.normal(size=(views, patches, 8)).astype(np.float32),
        features=rng.normal(size=(layout.tokens, 6)).astype(np.float32),
        text=rng.normal(size=(draw(st.integers(1, 7)), 6)).astype(np.float32),
    )


@st.composite
def plans(draw: st.DrawFn, num_layers: int = 6) -> PruningPlan:
    """The plan that a strategy makes for a unit."""
    unit = draw(host_units())
    strategy = draw(pruning_strategies(num_layers))
    return strategy.plan(strategy.scorer.score(unit).importance, unit.layout, unit)
