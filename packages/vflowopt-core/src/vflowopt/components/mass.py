"""Mass: how many tokens a retained one stands for, and what that adds to the attention that it gets.

Softmax attention gives a token that stands for many the share of one. With mass m, gamma * log(m) added to the logits
of its key gives it, at gamma = 1, the share that m equal tokens would have had together (Bolya et al., *Token Merging:
Your ViT But Faster*, ICLR 2023, call it proportional attention). All later queries see it: visual, text and generated
tokens.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, device_of, namespace, normalised, pick, places_among
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Component

KEY_BIAS = "key-bias"
"""What :class:`Mass` needs of an adapter: that it adds to the attention logits of keys."""

ROWS = 1024
"""Pruned tokens compared with all retained ones at once: memory stays linear in the number of tokens."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """What one stage did to the N tokens of a unit. All arrays live where the importance lives.

    Attributes:
        mass: float32 [N], what each token stood for before the stage; 0 for tokens pruned before.
        kept: int64 [kept], the tokens that the stage retains, ascending.
        pruned: int64 [pruned], those that it does not retain, ascending; tokens pruned before are in neither.
        anchor: int64 [N], the token in whose slot each was merged: itself where retained, -1 where in none
            (:class:`vflowopt.components.Merge`).
        importance: float32 [N], by which the stage ranked; 0 where structural.
        structural: bool [N], tokens without a patch.
        context: the unit as it enters the decoder, also at later stages.
    """

    mass: Array
    kept: Array
    pruned: Array
    anchor: Array
    importance: Array
    structural: Array
    context: ScoringContext


class Mass(Component):
    """Says what retained tokens stand for after each stage, and how attention takes account of it.

    Nothing here may wait for the device: shapes follow from those of the arguments.
    """

    kind: ClassVar[str] = "mass"

    @property
    def needs(self) -> frozenset[str]:
        """A bias of keys, where it acts."""
        return frozenset({KEY_BIAS}) if self.acts else frozenset()

    @property
    def acts(self) -> bool:
        """Whether the bias can be other than 0; if not, mass is not computed and attention is left as it is."""
        return True

    @abstractmethod
    def after(self, reduction: Reduction) -> Array:
        """Mass of the tokens that a stage retains, in their order: float32 [kept], finite and positive.

        Called for every stage that prunes. Before the first, every token stands for itself: its mass is 1.
        """

    @abstractmethod
    def bias(self, mass: Array) -> Array:
        """What is added to the attention logits of keys of tokens with this mass [kept]: float32 [kept], finite."""


class LogMass(Mass):
    """gamma * log(mass), where a pruned token's mass goes to the token that it was merged into, or is most like.

    A token that is not merged goes to the retained one whose embedding is nearest by cosine. Tokens without a patch
    (row separators) stand for themselves: nothing is assigned to them and, unless merged, they are assigned to nobody.

    Attributes:
        gamma: strength; 0 leaves attention as it is, 1 gives a token the share of those that it stands for.
        weighted: count what a token takes over by its importance, relative to the token's own and at most once: less
            important ones add less. Otherwise all count alike, and total mass stays the number of tokens, less
            separators that are dropped.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["log-mass"] = "log-mass"
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.0
    weighted: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return super().needs | ({"features"} if self.acts else set())

    @property
    def acts(self) -> bool:
        """See :attr:`Mass.acts`."""
        return self.gamma > 0

    def after(self, reduction: Reduction) -> Array:
        """See :meth:`Mass.after`; N K D operations for N pruned and K retained tokens."""
        kept, pruned = reduction.kept, reduction.pruned
        xp = namespace(kept)
        mass = pick(reduction.mass, kept)
        if not kept.shape[0]:
            return mass
        features = normalised(reduction.context.features)
        directions = xp.matrix_transpose(pick(features, kept))
        structural = pick(reduction.structural, kept)
        place = xp.arange(kept.shape[0], device=device_of(kept))
        for start in range(0, pruned.shape[0], ROWS):
            tokens = pruned[start : start + ROWS]
            likeness = pick(features, tokens) @ directions
            likeness = xp.where(structural[None, :], -xp.inf, likeness)
            anchor = pick(reduction.anchor, tokens)
            merged = anchor >= 0
            slot = xp.where(merged, places_among(kept, anchor), xp.argmax(likeness, axis=1))
            # Where every retained token is structural, the nearest one is structural too, and gets nothing.
            goes = merged | ~(pick(reduction.structural, tokens) | pick(structural, slot))
            share = xp.where(goes, pick(reduction.mass, tokens) * self._share(reduction, tokens, slot), 0.0)
            mass = mass + xp.sum(xp.where(slot[:, None] == place[None, :], share[:, None], 0.0), axis=0)
        return mass

    def _share(self, reduction: Reduction, tokens: Array, slot: Array) -> Array:
        """How much of a token's mass its slot takes over: float32 [tokens] in [0, 1]."""
        xp = namespace(tokens)
        if not self.weighted:
            return xp.ones(tokens.shape[0], dtype=reduction.mass.dtype, device=device_of(tokens))
        own = xp.clip(pick(reduction.importance, tokens), 0.0, None)
        other = pick(reduction.importance, pick(reduction.kept, slot))
        return xp.where(other > own, own / xp.where(other > own, other, 1.0), 1.0)

    def bias(self, mass: Array) -> Array:
        """See :meth:`Mass.bias`."""
        return self.gamma * namespace(mass).log(mass)
