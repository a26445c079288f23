"""What stands out to the vision tower: the attention that methods weigh against diversity or coverage."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from vflowopt.arrays import Array, pick
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Score
from vflowopt.methods.ordering import by_order

Source: TypeAlias = Literal["auto", "class", "mean"]
"""Whose attention: that of the class token, the mean over all patches, or the first where there is one."""

_NEEDS = {"auto": "saliency", "class": "class-attention", "mean": "attention"}


def need(source: Source) -> frozenset[str]:
    """What a component needs that ranks by the source."""
    return frozenset({_NEEDS[source]})


def saliency(context: ScoringContext, source: Source) -> Array:
    """Attention that the visual tokens receive, taken there from the patches: float32 [N], 0 where structural."""
    if source == "auto":
        return context.to_tokens(context.saliency)
    if source == "class":
        return context.to_tokens(context.class_attention)
    received = context.attention.received()
    return context.to_tokens(received / received.shape[-1])


def by_salient_order(
    context: ScoringContext, source: Source, count: int, order: Callable[[Array, Array, int], Array]
) -> Score:
    """Importance from an order of what stands out: see :func:`vflowopt.methods.ordering.by_order`.

    Args:
        context: the unit.
        source: whose attention.
        count: at most so many tokens are retained.
        order: is given attention float32 [tokens] and features float32 [tokens, D] of the tokens with a patch, and how
            many of them have to be put in order; returns their order, int64 [tokens].
    """
    attention, features = saliency(context, source), context.features

    def choose(tokens: Array, steps: int) -> Array:
        return order(pick(attention, tokens), pick(features, tokens), steps)

    return Score(by_order(context.layout, count, features, choose), {})
