"""What stands out to the vision tower: the attention that methods weigh against diversity or coverage."""

from typing import Literal, TypeAlias

from vflowopt.arrays import Array
from vflowopt.components.contract import ScoringContext

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
