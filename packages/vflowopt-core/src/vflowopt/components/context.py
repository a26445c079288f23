"""What components may look at of a unit, an image or a video, before the language model."""

from typing import Any, Protocol

import numpy.typing as npt

from vflowopt.arrays import Array
from vflowopt.components.attention import AttentionSource
from vflowopt.components.greedy import Greedy
from vflowopt.layout import TokenLayout


class ScoringContext(Protocol):
    """What a scorer may look at, for one unit (image or video). Everything is computed only when asked for."""

    @property
    def attention(self) -> AttentionSource:
        """Attention of the vision layer that the adapter names, the observed one."""
        ...

    @property
    def entropy(self) -> Array:
        """Patch entropy, float32 [views, patches], nats (paper Eq. 3)."""
        ...

    @property
    def class_attention(self) -> Array:
        """Attention that the patches of each view get from its class token in the observed layer.

        Mean over heads of the softmax over all positions, float32 [views, patches]. Only of vision towers that have a
        class token: list ``"class-attention"`` in ``needs``.
        """
        ...

    @property
    def saliency(self) -> Array:
        """:attr:`class_attention` where the tower has a class token, elsewhere the mean attention received.

        float32 [views, patches]; the mean is over the patches of the view. Every family offers it.
        """
        ...

    @property
    def vision_depth(self) -> int:
        """Vision layers up to the observed one, which is one of them."""
        ...

    def class_attentions(self, layers: int) -> Array:
        """:attr:`class_attention` of the last vision layers up to the observed one, in their order.

        Args:
            layers: how many, at most what :meth:`Component.class_attention_layers` tells.

        Returns:
            float32 [layers, views, patches].

        Raises:
            StrategyError: so many were not captured, or the tower has no class token.
        """
        ...

    def layer_attention(self, layer: int) -> AttentionSource:
        """Attention of a vision layer: list ``"layer-attention"`` in ``needs``.

        Args:
            layer: its number from 0, one of :meth:`Component.attention_layers`; ``vision_depth - 1`` is the observed
                one.

        Raises:
            StrategyError: it was not captured.
        """
        ...

    @property
    def keys(self) -> Array:
        """Keys of the patches as they enter the observed layer's attention, mean over heads.

        float32 [views, patches, head_dim]; :meth:`to_tokens` takes one component of them at a time to visual tokens.
        """
        ...

    @property
    def values(self) -> Array:
        """Values of the patches as they enter the observed layer's attention, its key heads side by side.

        float32 [views, patches, heads * head_dim].
        """
        ...

    @property
    def features(self) -> Array:
        """Embeddings of the unit's visual tokens as they enter the decoder, structural ones too: float32 [N, D]."""
        ...

    @property
    def text(self) -> Array:
        """Embeddings of the prompt's text after the unit as they enter the decoder: float32 [texts, D].

        Never empty: of the prompt's last token if no text follows the unit. What belongs to an answer is not in it.
        """
        ...

    @property
    def layout(self) -> TokenLayout:
        """Places of the unit's visual tokens, on the host."""
        ...

    def place(self, host: npt.NDArray[Any]) -> Array:
        """A host array in the library and on the device of this context's arrays, its dtype unchanged."""
        ...

    def to_tokens(self, patch_map: Array) -> Array:
        """A per-patch map [views, patches], taken through the features' geometry: float32 [N]; 0 where structural."""
        ...

    @property
    def choose_greedily(self) -> Greedy:
        """:func:`vflowopt.components.greedy.choose_greedily`, or what is faster for arrays of this context."""
        ...
