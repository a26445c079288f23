"""``prune`` for transformers models: hooks over model, backbone, vision attention and decoder, from start to stop.

State belongs to a forward: what a session knows of one is in a :class:`ModelForward`, found by the thread that runs it.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from vflowopt import PruningPlan, PruningReport, Strategy
from vflowopt.budgets.cost import CostModel
from vflowopt.errors import PruningStateError
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.decoder.contents import state_bytes
from vflowopt_hf.decoder.generation import checked_generation
from vflowopt_hf.decoder.padding import token_mask
from vflowopt_hf.decoder.staged import StagedDecoder
from vflowopt_hf.family import Family
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.hooks.compiling import eagerly, require_step, unwrapped
from vflowopt_hf.hooks.installing import Installed, at_end, replaced, require_unclaimed
from vflowopt_hf.hooks.running import Door, Forward, Running
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.guarding import break_even, left_alone
from vflowopt_hf.plans.known import KnownPrefills
from vflowopt_hf.plans.prefill import place_units, plan_units, require_no_placeholders
from vflowopt_hf.plans.stage_plan import StagePlan, attention_use
from vflowopt_hf.pruning.calls import (
    arguments_of,
    refuse_embeddings,
    refuse_full_length_arguments,
    tokens_after_prompt,
)
from vflowopt_hf.pruning.filler import reads_text
from vflowopt_hf.pruning.graphed_decoder import GraphedDecoder, Replay, Within
from vflowopt_hf.pruning.outcome import Outcome
from vflowopt_hf.pruning.placeholder_masks import placeholders_on_host
from vflowopt_hf.pruning.prompt import Prompt
from vflowopt_hf.pruning.requirements import VALUES
from vflowopt_hf.pruning.rotary_positions import METHOD, positions_on_host
from vflowopt_hf.upstream import cache_in
from vflowopt_hf.vision.class_rows import vision_depth
from vflowopt_hf.vision.encoders import EncoderTap, Encoding, tap_encoders


@dataclass(eq=False)
class ModelForward(Forward):
    """State of a forward of the model, or of its backbone, that is running.

    Attributes:
        given: encodings behind the features that came in.
        mark: what is encoded after it is encoded by this forward.
        made: what was.
        ids: int64 [batch, queries], on the host; ``None`` in a decoding step.
        mask: what there is of an attention mask, likewise.
        copies: other whole numbers of its arguments, with their copies on the host, where upstream reads them.
        following: tokens at its end that come after the prompt.
        planned: whether the decoder has begun.
        outcome: what a prefill did.
        replay: what the decoder is to replay; ``None`` if it runs.
        within: what the decoder's forward that starts next is planned with, if it is not the encodings above.
    """

    given: list[Encoding] = field(default_factory=list)
    mark: int = 0
    made: list[Encoding] = field(default_factory=list)
    ids: Tensor | None = None
    mask: Any = None
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    following: int = 0
    planned: bool = False
    outcome: Outcome | None = None
    replay: Replay | None = None
    within: Within | None = None


class _Last(threading.local):
    outcome: Outcome | None = None


class Session(Installed):
    """A model being pruned: the ``pruning`` that users see (:class:`vflowopt.adapter.Pruning`).

    Its hooks hold it, so that it lasts until it is stopped, whoever else forgets it.

    Args:
        family: of the model.
        model: the bare model.
        strategy: what prunes; it fits the model.
        statistics: of the pixels.
        guard: what prefills cost.
        shell: the model as it was given, inside wrappers whose compiled entrances the session cannot see otherwise.
        graphs: holds recordings of what has known shapes; ``None`` if everything runs eagerly.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        strategy: Strategy,
        statistics: PixelStatistics,
        guard: CostModel | None = None,
        shell: Any = None,
        graphs: Graphs | None = None,
    ) -> None:
        self._family, self._model, self._strategy, self._statistics = family, model, strategy, statistics
        self._graphs = graphs
        self._decoder_graphs: GraphedDecoder | None = None
        self._guard, self._shell = guard, shell
        self._backbone = unwrapped(family.backbone(model))
        self._door = Door()
        self._running: Running[ModelForward] = Running()
        self._last = _Last()
        self._known = KnownPrefills()
        self._finished: Outcome | None = None
        self._tap: EncoderTap
        self._hooks: ExitStack | None = None

    def start(self) -> Self:
        """Put the hooks in place; nothing happens if they are.

        Raises:
            PruningStateError: the model is being pruned already, by another session, or measured.
        """
        if self._hooks is None:
            with ExitStack() as stack:
                with self._door.opening():
                    self._install(stack)
                stack.callback(self._door.close)
                self._hooks = stack.pop_all()
        return self

    def stop(self) -> None:
        """Take the hooks off; nothing happens if they are."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """See :meth:`start`.

        Raises:
            PruningStateError: the model is being pruned already, also by this session, or measured.
        """
        if self._hooks is not None:
            raise PruningStateError("this pruning has begun already; leave `with` out, or call its stop() first")
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """See :meth:`stop`."""
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        state = "off" if self._hooks is None else "on"
        return f"<Pruning of a {self._family.name} model, {state}: {self._strategy!r}>"

    def _install(self, stack: ExitStack) -> None:
        if self._shell is not None:
            stack.enter_context(eagerly(self._shell, [self._model], lambda _: True))
        depth, components = vision_depth(self._family, self._model), components_of(self._strategy)
        layers = max(component.class_attention_layers(depth) for component in components)
        whole = {layer for component in components for layer in component.attention_layers(depth)}
        values = any(VALUES in component.needs for component in components)
        if self._graphs is not None:
            stack.callback(self._graphs.clear)
        tap = tap_encoders(self._family, self._model, layers, whole=whole, values=values, graphs=self._graphs)
        self._tap = stack.enter_context(tap)
        # Accelerate wraps forward methods and hands on copies: these hooks see what the caller gave.
        for module, enter in ((unwrapped(self._model), self._enter_model), (self._backbone, self._enter_backbone)):
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.enter_context(at_end(module, self._leave))
        stack.enter_context(placeholders_on_host(self._backbone, self._on_host))
        stack.enter_context(positions_on_host(self._backbone, self._copy_of))
        decoder, take = self._family.decoder(self._model), self._family.take_residuals
        staged = StagedDecoder(decoder, self._begin, take, attention_use(self._strategy))
        stack.enter_context(staged.installed())
        if self._graphs is not None:
            entropy = any("entropy" in component.needs for component in components)
            statistics = self._statistics if entropy else None
            # The guard counts rows to decide.
            any_length = self._guard is None and not reads_text(self._strategy)
            self._decoder_graphs = GraphedDecoder(
                unwrapped(decoder), self._graphs, statistics, self._forget, any_length=any_length
            )
            stack.enter_context(self._decoder_graphs.installed(self._running))
        stack.enter_context(checked_generation(self._model))
        model = unwrapped(self._model)
        if hasattr(model, "generate"):
            stack.enter_context(replaced(model, "generate", self._within_block(model.generate)))

    def recall(self, encodings: Iterable[Encoding]) -> None:
        """Take over what was encoded before the block, so that it may come in as ``mm_encoder_outputs``."""
        for encoding in encodings:
            self._tap.add(encoding)

    def _within_block(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate`` that does not pass over the end of the block, wherever it was looked up or is running."""

        @functools.wraps(generate)
        def checked(*args: Any, **kwargs: Any) -> Any:
            outer = self._running.innermost
            self._require_open()
            try:
                result = generate(*args, **kwargs)
            finally:
                self._running.innermost = outer  # an interrupt leaves forwards without their hooks being called
                self._go_out()
            self._require_open()
            return result

        return checked

    def _require_open(self) -> None:
        if not self._door.is_open:
            raise PruningStateError(
                "generate() was called inside `with prune(...)`, or before stop(), and runs after it, where nothing is "
                "pruned; wait for it inside (for a streamer: read it to its end, or join its thread)"
            )

    def _come_in(self, module: nn.Module) -> ModelForward:
        if self._running.innermost is None and not self._door.enter():
            raise PruningStateError(
                "this forward began as its `with prune(...)` ended; wait inside the block, or before stop(), for what "
                "other threads run"
            )
        return self._running.enter(ModelForward(module))

    def _go_out(self) -> None:
        if self._running.innermost is None:
            self._door.leave()

    def _enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = arguments_of(module, args, kwargs)
        refuse_full_length_arguments(arguments)
        if not torch.compiler.is_compiling():
            forward = self._come_in(module)
            forward.given = self._tap.find(arguments.get("mm_encoder_outputs"))
            forward.following = tokens_after_prompt(arguments.get("logits_to_keep"))

    def _enter_backbone(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = arguments_of(module, args, kwargs)
        ids, embeddings = arguments.get("input_ids"), arguments.get("inputs_embeds")
        if torch.compiler.is_compiling():
            require_step(embeddings if ids is None else ids)
            return
        caller = self._running.innermost
        forward = self._come_in(module)
        if caller is not None and caller.module is not module:
            forward.given, forward.following = caller.given, caller.following
        else:
            forward.given = self._tap.find(arguments.get("mm_encoder_outputs"))
        forward.mark = self._tap.mark()
        if ids is None:
            refuse_embeddings(embeddings)
        elif ids.shape[1] > 1 or cache_in(arguments) is None:
            self._begin_prefill(forward, ids, arguments)

    def _begin_prefill(self, forward: ModelForward, ids: Tensor, arguments: dict[str, Any]) -> None:
        """Note what the tokens are, which may be those of a later turn that brings nothing visual."""
        cache = cache_in(arguments)
        # Copied before the vision tower runs: nothing waits for the device after it.
        mask = token_mask(arguments.get("attention_mask"), ids.shape[1], cache)
        forward.ids, forward.mask = ids.cpu(), mask.cpu() if isinstance(mask, Tensor) else mask
        if arguments.get("position_ids") is None and hasattr(self._backbone, METHOD):
            read = [
                value for value in arguments.values() if isinstance(value, Tensor) and not value.is_floating_point()
            ]
            forward.copies = [(value, value.cpu()) for value in read]
        if cache is None or not int(cache.get_seq_length()):
            self._note(forward)

    def _on_host(self, ids: Tensor) -> Tensor | None:
        """Token ids of the prefill that runs, if these are they."""
        forward = self._running.innermost
        own = None if forward is None else forward.ids
        return own if own is not None and own.shape == ids.shape else None

    def _copy_of(self, tensor: Tensor) -> Tensor | None:
        """An argument of the prefill that runs, on the host."""
        forward = self._running.innermost
        copies = [] if forward is None else forward.copies
        return next((copy for given, copy in copies if given is tensor), None)

    def _note(self, forward: ModelForward) -> Outcome:
        """From now on, this thread's report is that of a forward."""
        if forward.outcome is None:
            self._last.outcome = forward.outcome = Outcome(self._family, self._model, self._strategy)
        return forward.outcome

    def _forget(self) -> None:
        self._known = KnownPrefills()

    def _leave(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        forward = self._running.leave(module)
        if forward is None:
            return
        self._go_out()
        if forward.made:
            self._tap.forget(forward.made)
        outcome = forward.outcome
        if outcome is None or output is None:  # nothing was pruned, or the forward has failed
            return
        if forward.module is self._backbone:
            outcome.states = state_bytes(cache_in(output) if isinstance(output, Mapping) else None)
        caller: Any = forward.outer
        if caller is not None and caller.module is not module:
            caller.outcome = outcome  # it has yet to launch the logits: nothing is waited for before
            return
        outcome.require_finite()
        self._finished = outcome

    def _begin(self, kwargs: dict[str, Any]) -> StagePlan | None:
        """Plan the decoder forward that starts now."""
        forward = self._running.innermost
        if forward is not None and forward.within is not None:
            within, forward.within = forward.within, None
            return self._plan(forward, within, kwargs["inputs_embeds"])
        if forward is None or forward.module is not self._backbone or forward.planned:
            refuse_embeddings(kwargs.get("inputs_embeds"))
            return None
        forward.planned = True
        forward.made = self._tap.since(forward.mark)
        encodings = [*forward.given, *forward.made]
        if not encodings:
            if forward.outcome is not None and forward.ids is not None:
                require_no_placeholders(self._family.placeholder_ids(self._model), forward.ids)
                forward.outcome.shape = (forward.ids.shape[0], forward.ids.shape[1])
            return None
        if self._decoder_graphs is not None:
            placeholders = self._family.placeholder_ids(self._model)
            prompt = Prompt(forward.ids, forward.mask, forward.following, placeholders)
            forward.replay = self._decoder_graphs.replay(kwargs, encodings, prompt)
            if forward.replay is not None:
                self._note(forward)
                return None
        return self._plan(forward, Within(encodings), kwargs["inputs_embeds"])

    def _plan(self, forward: ModelForward, within: Within, embeddings: Tensor) -> StagePlan | None:
        """Plan a prefill."""
        outcome, placeholders = self._note(forward), self._family.placeholder_ids(self._model)
        prefill = place_units(
            placeholders,
            within.encodings,
            forward.ids,
            forward.mask,
            self._statistics,
            embeddings,
            forward.following,
            self._known,
            within.filler,
        )
        outcome.guard = None if self._guard is None else break_even(self._guard, self._strategy, prefill)
        if outcome.guard is None or outcome.guard.pays:
            outcome.scored = plan_units(self._strategy, prefill.units, wait=False)
        else:
            outcome.scored = left_alone(self._strategy, prefill.units)
        outcome.stages = StagePlan.of(self._strategy, outcome.scored, prefill.table)
        outcome.shape = (embeddings.shape[0], embeddings.shape[1])
        return outcome.stages

    @property
    def plan(self) -> list[PruningPlan]:
        """One plan per unit of the last prefill, in prompt order, on the host."""
        return self._outcome.plans

    @property
    def report(self) -> PruningReport:
        """What the last prefill did."""
        return self._outcome.report()

    @property
    def _outcome(self) -> Outcome:
        """Of this thread's last prefill or, if it has run none, of the last that any thread has finished."""
        outcome = self._last.outcome or self._finished
        if outcome is None:
            raise PruningStateError("there is no report yet: no prefill has run in this block, or since start()")
        return outcome


def refuse_nesting(family: Family, model: Any) -> None:
    """Check that a model is neither pruned nor measured, by any thread.

    Raises:
        PruningStateError: it is.
    """
    require_unclaimed(unwrapped(family.backbone(model)))
    require_unclaimed(unwrapped(family.decoder(model)))
