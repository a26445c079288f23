"""Attention of decoder layers: what the next stage is decided by is noted, and the bias of keys is carried through."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from transformers.cache_utils import StaticLayer

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.decoder_forward import DecoderForward
from vflowopt_hf.decoder.key_bias import attend_with_bias, carrying_layers, require_carriable, require_carried
from vflowopt_hf.decoder.layer_kinds import LayerKinds, attending_layers
from vflowopt_hf.hooks.installing import Installed
from vflowopt_hf.hooks.running import Running
from vflowopt_hf.plans.decoder_attention import AttentionCall, attention_module, observe_attention, require_masks
from vflowopt_hf.plans.rotary import Rotary
from vflowopt_hf.plans.stage_plan import AttentionUse


class AttentionHooks(Installed):
    """Hooks on the attention of decoder layers.

    Args:
        layers: all layers of the decoder.
        kinds: what they are.
        use: of their attention; of a layer that has none, the nearest before it that has is observed.
        running: the forwards of the decoder.

    Raises:
        StrategyError: none has.
    """

    def __init__(
        self, layers: Sequence[nn.Module], kinds: LayerKinds, use: AttentionUse, running: Running[DecoderForward]
    ) -> None:
        self._layers, self._kinds, self._running = layers, kinds, running
        self._observed, self._biased = attending_layers(kinds.config, use.observed), use.biased
        self._implementation, self._carriers = kinds.implementation, self._to_carry()

    def require_possible(self) -> None:
        """Check that all of it can be done.

        Raises:
            UnsupportedOperationError: the attention cannot be observed or given a bias of keys.
        """
        if self._observed:
            require_masks(self._kinds.implementation)
        if self._carriers:
            require_carriable(self._kinds.config, self._kinds.implementation)

    def require_unchanged(self) -> None:
        """Check that the attention implementation is the one that the hooks are for, where one needs hooks.

        Raises:
            UnsupportedOperationError: it is another one.
        """
        before, now = self._implementation, self._kinds.implementation
        if now != before and (self._observed or self._carriers or self._to_carry()):
            raise UnsupportedOperationError(
                f"the decoder's attention was {before!r} when pruning began and is {now!r} now, but the strategy looks "
                f"at it or changes it; call set_attn_implementation({now!r}) before prune()"
            )

    def require_carried(self, cache: Any) -> None:
        """See :func:`vflowopt_hf.decoder.key_bias.require_carried`."""
        require_carried(cache, self._carriers, self._kinds.depth, self._kinds.implementation)

    @contextmanager
    def installed(self) -> Iterator[list[nn.Module]]:
        """They are in place inside the block; gives the modules that are looked into."""
        attended = {index: attention_module(self._layers[index]) for index in {*self._observed, *self._carriers}}
        with ExitStack() as hooks:
            for index, attention in attended.items():
                around = self._attend if index in self._carriers else None
                hooks.enter_context(observe_attention(attention, partial(self._note, index), around))
            yield [*attended.values()]

    def _to_carry(self) -> tuple[int, ...]:
        return carrying_layers(self._biased, self._kinds.config, self._kinds.depth)

    def _note(self, index: int, call: AttentionCall) -> None:
        forward = self._running.innermost
        if index not in self._observed or forward is None or forward.plan is None:
            return
        if forward.plan.awaits(self._observed[index]):
            attention = attention_module(self._layers[index])
            rotary = Rotary.of(forward.rotary, attention, call.query.shape[-1])
            call = replace(call, bias=forward.bias, rotary=rotary)
            layer = None if forward.cache is None else forward.cache.layers[index]
            forward.attention = call.without_room(layer.cumulative_length) if isinstance(layer, StaticLayer) else call

    def _attend(self, attend: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A layer's attention function, the bias of its keys carried through."""
        forward = self._running.innermost
        if forward is None or forward.bias is None:
            return attend(*args, **kwargs)
        return attend_with_bias(attend, forward.bias, *args, **kwargs)
