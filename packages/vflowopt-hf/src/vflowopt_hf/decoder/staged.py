"""Run a stock text decoder with fewer rows from given layers on, by hooks that leave with the block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt_hf.decoder.attention_hooks import AttentionHooks
from vflowopt_hf.decoder.cache_entry import permit_of
from vflowopt_hf.decoder.decoder_forward import DecoderForward
from vflowopt_hf.decoder.layer_hooks import LayerHook, LayerHooks
from vflowopt_hf.decoder.layer_kinds import LayerKinds
from vflowopt_hf.decoder.layer_views import Views
from vflowopt_hf.decoder.padding import without_needless_mask
from vflowopt_hf.decoder.shared_keys import ReusedKeys, last_rows_suffice
from vflowopt_hf.decoder.staged_layers import Changes, StagedLayers, rows_for
from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.hooks.compiling import eagerly, require_step, unwrapped
from vflowopt_hf.hooks.installing import Installed, at_end, claimed
from vflowopt_hf.hooks.running import Running
from vflowopt_hf.plans.stage_plan import AttentionUse, StagePlan
from vflowopt_hf.upstream import cache_in, require_cache_arguments, require_sharing_modes

_NO_USE = AttentionUse()


class StagedDecoder(Installed):
    """Hooks on a text decoder.

    All that a decoding step needs to know is in the cache, so that ``torch.compile`` compiles it once, whatever block
    it runs in.

    Args:
        decoder: a transformers text decoder with ``layers``.
        begin: called with the decoder's keyword arguments at the start of every forward that is not being compiled, in
            its thread; returns what to prune.
        take_residuals: see :meth:`vflowopt_hf.family.Family.take_residuals`.
        use: of the layers' attention; of one that has none, the nearest before it that has is observed.

    Raises:
        StrategyError: none has.
    """

    def __init__(
        self,
        decoder: nn.Module,
        begin: Callable[[dict[str, Any]], StagePlan | None],
        take_residuals: Callable[[dict[str, Any]], LayerResiduals | None],
        use: AttentionUse = _NO_USE,
    ) -> None:
        self._wrapped, self._decoder = decoder, unwrapped(decoder)
        self._begin, self._take_residuals = begin, take_residuals
        self._layers: list[nn.Module] = list(decoder.layers)  # type: ignore[arg-type]
        self._kinds = LayerKinds(self._decoder.config, len(self._layers))
        self._staged = StagedLayers(self._kinds)
        self._running: Running[DecoderForward] = Running()
        self._attention = AttentionHooks(self._layers, self._kinds, use, self._running)
        hooks = [LayerHook(index, self._before_layer, self._of_stage) for index in range(len(self._layers))]
        self._hooks = LayerHooks(self._layers, hooks)

    @classmethod
    def of_plan(
        cls,
        decoder: nn.Module,
        plan: StagePlan | None,
        take_residuals: Callable[[dict[str, Any]], LayerResiduals | None],
        use: AttentionUse = _NO_USE,
    ) -> "StagedDecoder":
        """For forwards of the thread that asks, which prune what is given; those of other threads prune nothing."""
        own = threading.get_ident()
        return cls(decoder, lambda _: plan if threading.get_ident() == own else None, take_residuals, use)

    @contextmanager
    def installed(self) -> Iterator["StagedDecoder"]:
        """Hooks are in place inside the block.

        Raises:
            UnsupportedModelError: the layers take their KV cache by a name that is not known, or reuse keys and the
                configuration does not tell whose.
            UnsupportedOperationError: their attention cannot be observed or given a bias of keys.
            PruningStateError: somebody else has hooks on the decoder.
        """
        require_cache_arguments(self._layers)
        require_sharing_modes(self._decoder.config)
        self._attention.require_possible()
        with ExitStack() as hooks:
            hooks.enter_context(claimed(self._decoder, self))
            hooks.enter_context(at_end(self._decoder, self._leave))
            hooks.callback(self._decoder.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            hooks.enter_context(self._hooks.installed())
            attended = hooks.enter_context(self._attention.installed())
            hooks.enter_context(eagerly(self._wrapped, attended, self._is_whole, self._layers))
            yield self

    def _is_whole(self, module: nn.Module) -> bool:
        """Whether a step may be compiled as this module: a layer alone would not see the forward that runs."""
        return unwrapped(module) is self._decoder

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        entered = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if entered is None else entered
        queries = 0 if tokens is None else tokens.shape[1]
        self._attention.require_unchanged()
        self._attention.require_carried(cache_in(kwargs))
        views = Views(queries, self._kinds.implementation)
        forward = self._running.enter(DecoderForward(module, views, ReusedKeys(queries)))
        if torch.compiler.is_compiling():
            require_step(tokens)
            self._hooks.require_on()
            return None
        plan = self._begin(kwargs)
        if plan is None:
            return None
        self._hold(forward)
        arguments = dict(without_needless_mask(kwargs, plan.table.present, self._decoder.config))
        forward.plan, forward.entered, forward.residuals = plan, entered, self._take_residuals(arguments)
        self._staged.require_prunable(forward, plan)
        forward.last = arguments.get("logits_to_keep") or 0
        if forward.last and not last_rows_suffice(plan, self._kinds.reusing, forward.last):
            arguments["logits_to_keep"] = 0
        self._staged.see_cache(forward, kwargs)
        return args, arguments

    def _leave(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        forward = self._running.leave(module)
        if forward is not None:
            if forward.last and output is not None:  # what has fewer rows than the prompt, the model does not cut
                output.last_hidden_state = output.last_hidden_state[:, -forward.last :]
            for state in forward.states:
                state.close()
            if forward.permit is not None:
                forward.permit.rows = None
            if forward.holds:
                self._hooks.release()

    def _hold(self, forward: DecoderForward) -> None:
        self._hooks.hold()
        forward.holds = True

    def _before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Changes:
        forward = self._running.innermost
        if forward is None or forward.permit is not None or (not index and self._is_untouched(forward, hidden, kwargs)):
            return None
        return self._staged.before(forward, index, hidden, kwargs)

    def _is_untouched(self, forward: DecoderForward, hidden: Tensor, kwargs: dict[str, Any]) -> bool:
        """Whether a forward changes nothing in any layer, as the first one shows; if not, all of them get hooks."""
        if forward.plan is not None or torch.compiler.is_compiling():
            return False
        permit = permit_of(cache_in(kwargs), self._decoder.config)
        if not permit.plain or kwargs.get("attention_mask") is not None:
            self._hold(forward)
            return False
        permit.rows, forward.permit = hidden.shape[1], permit
        self._hooks.rest()
        return True

    def _of_stage(self, index: int, argument: Any) -> Any:
        forward = self._running.innermost
        return argument if forward is None else rows_for(forward, index, argument)
