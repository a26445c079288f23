"""Run a stock text decoder with fewer rows from given layers on, by hooks that leave with the block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import StaticLayer

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.decoder.cache_entry import enter_prefill, permit_of
from vflowopt_hf.decoder.conversion import convert, pruned_layer
from vflowopt_hf.decoder.decoder_forward import DecoderForward
from vflowopt_hf.decoder.key_bias import attend_with_bias, carrying_layers, require_carriable, require_carried
from vflowopt_hf.decoder.layer_hooks import LayerHook, LayerHooks
from vflowopt_hf.decoder.layer_kinds import attending_layers, has_keys, is_recurrent, keys_of
from vflowopt_hf.decoder.layer_views import Views
from vflowopt_hf.decoder.padding import without_needless_mask
from vflowopt_hf.decoder.recurrent_cache import PrunedRecurrentLayer
from vflowopt_hf.decoder.residuals import residuals_after
from vflowopt_hf.decoder.shared_keys import ReusedKeys, SharedKeys, last_rows_suffice, require_reusable
from vflowopt_hf.decoder.windows import sliding_window
from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.hooks.compiling import eagerly, require_step, unwrapped
from vflowopt_hf.hooks.installing import Installed, at_end, claimed
from vflowopt_hf.hooks.running import Running
from vflowopt_hf.plans.decoder_attention import AttentionCall, attention_module, observe_attention, require_masks
from vflowopt_hf.plans.merging import has_row_per_token, merge_rows, rows_of_stage
from vflowopt_hf.plans.rows import take_rows
from vflowopt_hf.plans.stage_plan import AttentionUse, StagePlan
from vflowopt_hf.upstream import cache_in, require_cache_arguments, require_sharing_modes

NO_USE = AttentionUse()


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
        use: AttentionUse = NO_USE,
    ) -> None:
        self._wrapped, self._decoder = decoder, unwrapped(decoder)
        self._begin, self._take_residuals = begin, take_residuals
        self._observed, self._biased = attending_layers(self._decoder.config, use.observed), use.biased
        self._layers: list[nn.Module] = list(decoder.layers)  # type: ignore[arg-type]
        self._attends = [has_keys(self._decoder.config, index) for index in range(len(self._layers))]
        self._recurs = [is_recurrent(self._decoder.config, index) for index in range(len(self._layers))]
        self._windows: dict[int, int | None] = {}
        self._keys_of = [keys_of(self._decoder.config, index) for index in range(len(self._layers))]
        self._reusing = [index for index, layer in enumerate(self._keys_of) if layer != index]
        self._sharing = {self._keys_of[index] for index in self._reusing}
        self._running: Running[DecoderForward] = Running()
        hooks = [LayerHook(index, self.before_layer, self.of_stage) for index in range(len(self._layers))]
        self._hooks = LayerHooks(self._layers, hooks)

    @classmethod
    def of_plan(
        cls,
        decoder: nn.Module,
        plan: StagePlan | None,
        take_residuals: Callable[[dict[str, Any]], LayerResiduals | None],
        use: AttentionUse = NO_USE,
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
        if self._observed:
            require_masks(self._implementation)
        carriers = carrying_layers(self._biased, self._decoder.config, len(self._layers))
        if carriers:
            require_carriable(self._decoder.config, self._implementation)
        with ExitStack() as hooks:
            hooks.enter_context(claimed(self._decoder, self))
            hooks.enter_context(at_end(self._decoder, self._leave))
            hooks.callback(self._decoder.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            hooks.enter_context(self._hooks.installed())
            attended = {index: attention_module(self._layers[index]) for index in {*self._observed, *carriers}}
            for index, attention in attended.items():
                around = self._attend if index in carriers else None
                hooks.enter_context(observe_attention(attention, partial(self._note, index), around))
            hooks.enter_context(eagerly(self._wrapped, attended.values(), self._is_whole, self._layers))
            yield self

    def _is_whole(self, module: nn.Module) -> bool:
        """Whether a step may be compiled as this module: a layer alone would not see the forward that runs."""
        return unwrapped(module) is self._decoder

    def _note(self, index: int, call: AttentionCall) -> None:
        forward = self._running.innermost
        if index not in self._observed or forward is None or forward.plan is None:
            return
        if forward.plan.awaits(self._observed[index]):
            call = replace(call, bias=forward.bias)
            layer = None if forward.cache is None else forward.cache.layers[index]
            forward.attention = call.without_room(layer.cumulative_length) if isinstance(layer, StaticLayer) else call

    def _attend(self, attend: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A layer's attention function, the bias of its keys carried through."""
        forward = self._running.innermost
        if forward is None or forward.bias is None:
            return attend(*args, **kwargs)
        return attend_with_bias(attend, forward.bias, *args, **kwargs)

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        entered = kwargs.get("inputs_embeds")
        tokens = kwargs.get("input_ids") if entered is None else entered
        queries = 0 if tokens is None else tokens.shape[1]
        carriers = carrying_layers(self._biased, self._decoder.config, len(self._layers))
        require_carried(cache_in(kwargs), carriers, len(self._layers), self._implementation)
        forward = self._running.enter(DecoderForward(module, Views(queries, self._implementation), ReusedKeys(queries)))
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
        self._require_layers(plan, forward)
        forward.last = arguments.get("logits_to_keep") or 0
        if forward.last and not last_rows_suffice(plan, self._reusing, forward.last):
            arguments["logits_to_keep"] = 0
        self._see_cache(forward, kwargs)
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

    def _require_layers(self, plan: StagePlan, forward: DecoderForward) -> None:
        """Refuse what cannot be pruned before the first layer runs."""
        depth = len(self._layers)
        if forward.residuals is not None and len(forward.residuals.values) >= depth:
            raise UnsupportedModelError(
                f"this {type(self._decoder).__name__} adds features after the last of its {depth} layers, where no "
                f"layer follows to prune them for"
            )
        for index in range(plan.boundaries[0], depth):
            if self._attends[index]:
                self._window(index)
            if plan.stage_at(index) != plan.stage_at(self._keys_of[index]):
                require_reusable(self._implementation, index)

    def _see_cache(self, forward: DecoderForward, kwargs: dict[str, Any]) -> None:
        """The decoder was given a cache, or has made one for its layers."""
        cache = cache_in(kwargs)
        if forward.plan is not None and forward.cache is None and cache is not None:
            forward.cache = cache
            enter_prefill(cache, forward.plan, self._decoder.config, len(self._layers))

    def before_layer(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict[str, Any]] | None:
        """Hidden states and changed arguments for one decoder layer; ``None`` leaves them as they are."""
        forward = self._running.innermost
        if forward is None or forward.permit is not None or (not index and self._is_untouched(forward, hidden, kwargs)):
            return None
        forward.bias = None
        if forward.plan is None and not (self._recurs[index] or self._reusing):
            return self._continue(forward, index, hidden, kwargs)
        self._see_cache(forward, kwargs)
        self._open_state(forward, index, kwargs)
        added = self._residual(forward, index - 1)
        if added is None:
            return self._staged(forward, index, hidden, kwargs)
        hidden = hidden + added.to(hidden.device, hidden.dtype)
        return self._staged(forward, index, hidden, kwargs) or (hidden, {})

    def _staged(
        self, forward: DecoderForward, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        plan = forward.plan
        number = None if plan is None else self._stage(forward, plan, index, hidden)
        if plan is not None and number is not None:
            hidden = self._entering(forward, plan, number, index, hidden)
        if index in self._reusing:
            return self._reuse(forward, index, number, hidden, kwargs)
        if plan is None or number is None:
            found = self._continue(forward, index, hidden, kwargs)
        else:
            found = self._pruned(forward, plan, number, index, hidden, kwargs)
        if index in self._sharing:
            given = kwargs.get("attention_mask")
            mask = given if found is None else found[1].get("attention_mask", given)
            changed, cache = mask is not given, cache_in(kwargs)
            forward.reused.share(index, SharedKeys(number, hidden.shape[1], mask, changed, forward.bias, cache))
        return found

    def _entering(self, forward: DecoderForward, plan: StagePlan, number: int, index: int, hidden: Tensor) -> Tensor:
        """Hidden states of the stage's rows, or of the last of them, if upstream runs no others."""
        stage, before = plan.stages[number], plan.before(number)
        whole = forward.views.queries if before is None else before.logical.shape[1]
        if stage.boundary != index or hidden.shape[1] < whole:
            return hidden
        return take_rows(merge_rows(hidden, plan.table, plan.plans, number, before), stage.samples, stage.gather)

    def _reuse(
        self, forward: DecoderForward, index: int, number: int | None, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """For a layer that attends to the keys of an earlier one."""
        stages = () if forward.plan is None else forward.plan.stages
        tables = kwargs.get("position_embeddings")
        view = forward.reused.view(self._keys_of[index], stages, number, hidden, tables)
        if view is None:
            return None
        forward.bias = view.bias
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings}
        return hidden, _those_given(changes if number is None else changes | {"position_ids": None}, kwargs)

    def _pruned(
        self,
        forward: DecoderForward,
        plan: StagePlan,
        number: int,
        index: int,
        hidden: Tensor,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Any]]:
        """For a layer of a stage."""
        stage = plan.stages[number]
        if not self._attends[index]:
            # All that such a layer asks is which rows are filler; there is no padding any more.
            valid = None if stage.valid is None else stage.valid.to(hidden.device)
            return hidden, _those_given({"attention_mask": valid, "position_ids": None}, kwargs)
        cache = cache_in(kwargs)
        layer = None if cache is None else convert(cache, index)
        mask, embeddings = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
        view = forward.views.of_stage(stage, layer, hidden, mask, embeddings, self._window(index))
        forward.bias = view.bias
        if layer is not None and view.slots is not None:
            rows, queries = hidden.shape[1], forward.views.queries
            layer.skip(view.slots, skipped=queries - rows, fixed=queries - stage.tail, stage=number)
            layer.expect(rows)
        # Gaps in positions read as packed sequences to flash attention; rotary embeddings carry them already.
        changes = {"attention_mask": view.mask, "position_embeddings": view.embeddings, "position_ids": None}
        return hidden, _those_given(changes, kwargs)

    def of_stage(self, index: int, argument: Any) -> Any:
        """A further argument of one decoder layer, reduced to the rows of its stage if it has one per token."""
        forward = self._running.innermost
        plan = None if forward is None else forward.plan
        number = None if plan is None else plan.stage_at(index)
        if plan is None or number is None or not has_row_per_token(argument, plan.table):
            return argument
        return rows_of_stage(argument, plan.table, plan.plans, number, plan.stages[number])

    def _open_state(self, forward: DecoderForward, index: int, kwargs: dict[str, Any]) -> None:
        """Let a recurrent layer go on with its state in a cache that may lack tokens of earlier forwards."""
        if self._recurs[index]:
            cache = cache_in(kwargs)
            state = None if cache is None else cache.layers[index]
            if isinstance(state, PrunedRecurrentLayer):
                state.open()
                forward.states.append(state)

    def _stage(self, forward: DecoderForward, plan: StagePlan, index: int, hidden: Tensor) -> int | None:
        """The stage that a layer belongs to, decided if it begins there."""
        if plan.awaits(index):
            plan.decide(forward.attention, forward.entered, hidden)
            forward.attention = None
        return plan.stage_at(index)

    def _continue(
        self, forward: DecoderForward, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """For a layer that runs with all rows, on a cache that may lack tokens of earlier forwards."""
        layer = pruned_layer(cache_in(kwargs), index)
        if layer is None:
            return None
        layer.expect(hidden.shape[1])
        mask, window = kwargs.get("attention_mask"), self._window(index)
        if window is None and (layer.known is None or (mask is None and layer.is_plain)):
            return None
        view = forward.views.of_continued(layer, hidden, mask, window)
        forward.bias = view.bias
        return None if view.mask is mask else (hidden, {"attention_mask": view.mask})

    @property
    def _implementation(self) -> str:
        return str(self._decoder.config._attn_implementation)

    def _window(self, index: int) -> int | None:
        if index not in self._windows:
            self._windows[index] = sliding_window(self._decoder.config, index)
        return self._windows[index]

    def _residual(self, forward: DecoderForward, index: int) -> Tensor | None:
        """What the decoder would have added to a layer's output; ``None`` if nothing."""
        if forward.plan is None or forward.residuals is None or index < 0:
            return None
        number = forward.plan.stage_at(index)
        stage = None if number is None else forward.plan.stages[number]
        return residuals_after(forward.residuals, index, forward.plan.table, forward.plan.plans, stage)


def _those_given(changes: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The changes of arguments that a layer was called with."""
    return {name: value for name, value in changes.items() if name in kwargs}
