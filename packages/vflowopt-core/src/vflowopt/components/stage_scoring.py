"""Scorers that rank tokens anew inside the decoder, by its own attention, at every stage that prunes there."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vflowopt.arrays import Array, HostBools, HostInts
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Schedule, Score, Scorer
from vflowopt.components.schedule import Progressive
from vflowopt.errors import StrategyError
from vflowopt.layout import TokenLayout

DECODER_ATTENTION = "decoder-attention"
"""What :class:`StageScorer` needs of an adapter."""


Heads: TypeAlias = Literal["mean", "max"]
"""How the attention of several heads becomes one."""


class StageContext(Protocol):
    """What a scorer may look at before decoder layer b > 0, for one unit. Everything is computed only when asked for.

    Positions count the tokens of the unit's sample in this forward, pruned ones and padding included, and are known on
    the host. Nothing here waits for the device.
    """

    @property
    def layout(self) -> TokenLayout:
        """Places of the unit's N visual tokens, on the host."""
        ...

    @property
    def last(self) -> HostInts:
        """Position of the prompt's last token, int64 [1]."""
        ...

    @property
    def text(self) -> HostInts:
        """Positions of the text tokens after the unit, int64 [texts]; :attr:`last` if there are none."""
        ...

    @property
    def visual(self) -> HostInts:
        """Positions of the unit's own tokens, pruned ones included, int64 [N]."""
        ...

    def embeddings(self, positions: HostInts) -> Array:
        """What entered the decoder at some positions, float32 [positions, features]."""
        ...

    def hidden(self, tokens: Array) -> Array:
        """What enters layer b of some of the unit's tokens that are left, float32 [tokens, features].

        Args:
            tokens: int64 [tokens], places among the unit's N tokens, on the device.
        """
        ...

    @property
    def left(self) -> Array:
        """Which of the unit's tokens were not pruned before: bool [N]."""
        ...

    def states(self, positions: HostInts) -> Array:
        """What enters layer b at some positions, float32 [positions, features]; of pruned tokens anything."""
        ...

    def keys(self, positions: HostInts) -> Array:
        """Keys of layer b - 1 at some positions, as they enter its attention; of pruned tokens anything.

        Returns:
            float32 [positions, key heads * head_dim], heads side by side.
        """
        ...

    def values(self, positions: HostInts) -> Array:
        """Values of layer b - 1, likewise."""
        ...

    def received(self, queries: HostInts, weights: Array | None = None, *, heads: Heads = "mean") -> Array:
        """Attention that the unit's tokens receive in layer b - 1, summed over some queries.

        Args:
            queries: int64 [queries], positions without repetition; those of pruned tokens count nothing.
            weights: float32 [queries], factors of their attention; 1 by default.
            heads: what each query's attention is over the heads.

        Returns:
            float32 [N] of the layer's softmax over all that it saw; 0 where the token was pruned before.
        """
        ...

    def received_by_head(self, queries: HostInts, weights: Array) -> Array:
        """The same by each head, where the factors differ by token as well.

        Args:
            queries: int64 [queries], positions without repetition of tokens that are left, as all text is.
            weights: float32 [queries, N].

        Returns:
            float32 [heads, N]; 0 where the token was pruned before.
        """
        ...

    def rotary_closeness(self, queries: HostInts) -> Array:
        """How alike the rotary positions of layer b - 1 leave the unit's tokens to some queries, whatever they hold.

        Args:
            queries: int64 [queries], positions.

        Returns:
            float32 [queries, N], products of vectors of ones that were turned by the positions, over their dimensions:
            their cosine similarity, but for what some models scale positions by; 1 if the layer turns nothing.

        Raises:
            UnsupportedModelError: the layer's rotary positions are not tables of a cosine and a sine per dimension.
        """
        ...

    def place(self, host: npt.NDArray[Any]) -> Array:
        """A host array in the library and on the device of this context's arrays, its dtype unchanged."""
        ...


class StageScorer(Scorer):
    """Ranks at every stage inside the decoder the tokens that are left.

    Before the LLM there is no such attention: unless :meth:`score` is overridden (and :attr:`needs` says by what it
    scores), schedules start inside the decoder.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The decoder's attention."""
        return frozenset({DECODER_ATTENTION})

    def score(self, context: ScoringContext) -> Score:
        """Before the LLM nothing is known: all tokens are equal."""
        return Score(context.place(np.zeros(context.layout.tokens, dtype=np.float32)), {})

    @abstractmethod
    def rescore(self, context: StageContext) -> Array:
        """Importance float32 [N] before a layer b > 0; ignored at separators and where pruned before."""

    def rescore_retaining(self, context: StageContext, count: int) -> Array:  # noqa: ARG002
        """The same where the stage retains ``count`` tokens: what pruning calls. By default it makes no difference."""
        return self.rescore(context)

    @abstractmethod
    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """The decoder layers before which the method prunes, of a decoder with ``num_layers`` layers."""

    def schedule(self, budget: float, num_layers: int, stages: Sequence[int] | None = None) -> Schedule:
        """The method's schedule for an average retention (paper Eq. 5): here, every stage keeps the same share.

        Raises:
            BudgetError: the budget cannot be met; names the bound of those that can.
            StrategyError: a stage lies beyond the last layer.
        """
        return Progressive.geometric(budget, self.default_stages(num_layers) if stages is None else stages, num_layers)

    @property
    def ranks_before_llm(self) -> bool:
        """Whether a stage may prune before the first decoder layer."""
        return self.needs != {DECODER_ATTENTION}


@dataclass(frozen=True, eq=False)
class ReceivedAttention:
    """What the visual tokens of one unit receive in each decoder layer of the unpruned model; on the host.

    Attributes:
        own: float64 [layers, N], from visual tokens: mean over them of the maximum over heads.
        cross: float64 [layers, N], likewise from the text tokens after the unit.
        structural: bool [N].
        ranks: int64 [layers], see :func:`vflowopt.methods.sparsevlm_adaptive.rank`; ``None`` unless asked for.
    """

    own: npt.NDArray[np.float64]
    cross: npt.NDArray[np.float64]
    structural: HostBools
    ranks: HostInts | None = None

    def of_patches(self) -> "ReceivedAttention":
        """The same without separators."""
        tokens = ~self.structural
        return replace(self, own=self.own[:, tokens], cross=self.cross[:, tokens], structural=self.structural[tokens])


class FittedScorer(StageScorer):
    """A stage scorer whose schedule is fitted to the attention on some samples; a budget alone does not make one."""

    fits_to_ranks: ClassVar[bool] = False
    """Whether :meth:`fit_schedule` looks at :attr:`ReceivedAttention.ranks`, which are observed only then."""

    @abstractmethod
    def fit_schedule(self, seen: Sequence[ReceivedAttention], budget: float) -> Schedule:
        """The schedule for an average retention.

        Args:
            seen: of every decoder layer, for some units.
            budget: average retention in (0, 1].

        Raises:
            InputError: no units.
            BudgetError: the budget cannot be met on these samples; names the bound of those that can.
        """

    def schedule(
        self,
        budget: float,
        num_layers: int,  # noqa: ARG002
        stages: Sequence[int] | None = None,  # noqa: ARG002
    ) -> Schedule:
        """There is none without samples.

        Raises:
            StrategyError: always; says how to fit one.
        """
        name = self.component_name()
        raise StrategyError(
            f"{name} fits its schedule to samples, so a budget of {budget} alone does not make a strategy: write one "
            f"to a file with `vflowopt fit --method {name} --budget {budget} --out FILE`"
        )
