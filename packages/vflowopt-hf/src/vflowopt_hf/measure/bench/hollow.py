"""A decoder whose layers compute nothing: what is left of its time is that of what stands around them."""

from typing import Any

from torch import Tensor, nn


class HollowDecoder(nn.Module):
    """As many layers as a decoder, called as it calls them, that hand on what they get.

    Args:
        decoder: whose configuration and layers it mimics.
        layer_calls: keyword arguments of each layer.
    """

    def __init__(self, decoder: nn.Module, layer_calls: tuple[dict[str, Any], ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_HollowLayer() for _ in layer_calls)
        self.config, self._calls = decoder.config, layer_calls

    def forward(self, inputs_embeds: Tensor, cache: Any = None, **_: Any) -> Tensor:
        """Hidden states [batch, rows of the last stage, features]: the embeddings, merged and gathered."""
        hidden = inputs_embeds
        for layer, call in zip(self.layers, self._calls, strict=True):
            hidden = layer(hidden, **{**call, "cache": cache})
        return hidden


class _HollowLayer(nn.Module):
    def forward(self, hidden_states: Tensor, cache: Any = None, **_: Any) -> Tensor:  # noqa: ARG002
        return hidden_states
