"""Recyclers that merge at every stage what is pruned there, by hidden states, before the LLM and inside it."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from vflowopt.arrays import Array, pick
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import ContextRecycler, Merge
from vflowopt.layout import TokenLayout

HIDDEN_STATES = "hidden-states"
"""What :class:`StageRecycler` needs of an adapter, besides features."""

Hidden: TypeAlias = Callable[[Array], Array]
"""Takes some of a unit's tokens, int64 [tokens], and gives what enters the stage: float32 [tokens, features]."""


class StageRecycler(ContextRecycler):
    """A recycler that merges at every stage."""

    @property
    def needs(self) -> frozenset[str]:
        """Hidden states, before the LLM those that enter it."""
        return frozenset({"features", HIDDEN_STATES})

    @abstractmethod
    def merge_stage(self, ranking: Array, layout: TokenLayout, before: int, count: int, hidden: Hidden) -> Merge:
        """Retain exactly ``count`` of the tokens that are left.

        Inside the decoder nothing may wait for the device, so constants are made there, not copied to it.

        Args:
            ranking: float32 [N], importance of the tokens that are left; -inf where pruned before.
            layout: places of the N tokens, on the host; all have one.
            before: how many tokens are left; more than ``count``.
            count: how many to retain.
            hidden: states of tokens that are left, if asked for.

        Returns:
            The stage's outcome. Tokens pruned before have no anchor.
        """

    def merge_unit(self, importance: Array, context: ScoringContext, count: int) -> Merge:
        """The first stage, before the LLM."""
        layout = context.layout
        return self.merge_stage(importance, layout, layout.tokens, count, partial(_features, context))


def _features(context: ScoringContext, tokens: Array) -> Array:
    features = context.features
    return pick(features, tokens)
