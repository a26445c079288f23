"""The staged decoder as a recording: planning, stages and layers, from the prompt's embeddings to the KV cache."""

import copy
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from vflowopt_hf.decoder.filling import can_be_filled, fill
from vflowopt_hf.graphs.modules import Recorded
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.graphs.trees import UnknownArgumentError, signature, tensors_of
from vflowopt_hf.graphs.watch import UnrecordableError
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.filler import (
    can_be_filled_up,
    cut_off,
    filled,
    hides_filler,
    remembers,
    rows_asked,
    with_filler,
)
from vflowopt_hf.pruning.outcome import Outcome
from vflowopt_hf.pruning.prompt import Prompt
from vflowopt_hf.upstream import CACHE_NAMES, cache_argument, cache_in
from vflowopt_hf.vision.encoders import Encoding

PART = "decoder"


@dataclass(frozen=True, eq=False)
class Within:
    """What a forward of the decoder is planned with, in place of what its caller has encoded.

    Attributes:
        encodings: behind the visual tokens.
        filler: rows at its end that are no tokens.
    """

    encodings: Sequence[Encoding]
    filler: int = 0


class Planned(Protocol):
    """The state of a forward, as far as it matters here."""

    outcome: Outcome | None
    replay: "Replay | None"
    within: Within | None


@dataclass(frozen=True, eq=False)
class Replay:
    """A prefill that is to be replayed in the decoder's place.

    Attributes:
        key: what the host has decided with.
        arguments: keyword arguments of the decoder, but the cache; with filler.
        shape: batch and tokens of the prompt.
        filler: rows after it.
        asked: rows of the output that the caller wants.
        cache: empty; dynamic or static.
        empty: the dynamic one that the decoder fills while it is recorded.
        encodings: behind the visual tokens.
        entropies: of each unit of each of them, where the strategy reads them.
    """

    key: Hashable
    arguments: Mapping[str, Any]
    shape: tuple[int, int]
    filler: int
    asked: slice
    cache: Cache
    empty: DynamicCache
    encodings: Sequence[Encoding]
    entropies: Sequence[Sequence[Tensor]]

    @property
    def inputs(self) -> Any:
        """All tensors, in a tree."""
        return self.arguments, _tensors(self.encodings), self.entropies


class GraphedDecoder:
    """Recordings of a decoder that prunes.

    Args:
        decoder: the decoder.
        graphs: holds them.
        statistics: of the pixels, where the strategy reads their entropy; else ``None``.
        forget: called when a recording fails, of which nothing may be remembered: it has computed nothing.
        any_length: whether nothing that is decided depends on the length of a prompt's text, so that it may be filled
            up (:mod:`vflowopt_hf.pruning.filler`).
    """

    def __init__(
        self,
        decoder: nn.Module,
        graphs: Graphs,
        statistics: PixelStatistics | None,
        forget: Callable[[], None] = lambda: None,
        *,
        any_length: bool = False,
    ) -> None:
        self._decoder, self._graphs, self._statistics, self._forget = decoder, graphs, statistics, forget
        self._fills_up = any_length and hides_filler(decoder)
        self._recorded = Recorded(decoder)

    def replay(self, kwargs: Mapping[str, Any], encodings: Sequence[Encoding], prompt: Prompt) -> Replay | None:
        """What to replay for a prefill; ``None`` if it is to run eagerly.

        Args:
            kwargs: keyword arguments of the decoder.
            encodings: behind the visual tokens.
            prompt: the prompt.
        """
        try:
            return self._found(kwargs, encodings, prompt)
        except (UnrecordableError, UnknownArgumentError) as error:
            self._graphs.fall_back(PART, str(error))
            return None

    def _found(self, kwargs: Mapping[str, Any], encodings: Sequence[Encoding], prompt: Prompt) -> Replay | None:
        state, reason = self._recorded.state()
        cache, arguments = self._cache(kwargs), _arguments(kwargs)
        empty = cache if isinstance(cache, DynamicCache) else DynamicCache(config=self._config)
        reason = reason or self._graphs.reason_against(tensors_of((arguments, _tensors(encodings))))
        if reason is not None:
            raise UnrecordableError(reason)
        encoded = tuple((encoding.key, encoding.copies) for encoding in encodings)
        if any(key is None for key, _ in encoded):
            raise UnrecordableError("its images were encoded before the block, or by a resampler")
        shape, asked, filler = prompt.shape, slice(None), self._filler(prompt, arguments, empty)
        if filler is not None:
            arguments, asked = with_filler(arguments, shape, filler), rows_asked(arguments, filler)
        filler = filler or 0
        layers, read = tuple(map(type, empty.layers)), map(signature, tensors_of(_tensors(encodings)))
        key = (state, layers, prompt.key(encodings, filler), encoded, signature(arguments), *read)
        if not self._graphs.is_due(PART, key):
            return None
        entropies = [self._entropies(encoding) for encoding in encodings]
        return Replay(key, arguments, shape, filler, asked, cache, empty, encodings, entropies)

    def _filler(self, prompt: Prompt, arguments: Mapping[str, Any], cache: DynamicCache) -> int | None:
        """Rows of filler that share a recording with prompts of other lengths; ``None`` if these cannot share it."""
        if not self._fills_up or remembers(cache):
            return None
        filler = filled(prompt.text) - prompt.text
        return filler if can_be_filled_up(arguments, prompt.shape, filler, self._config) else None

    def _entropies(self, encoding: Encoding) -> list[Tensor]:
        statistics = self._statistics
        return [] if statistics is None else [unit.entropy(statistics) for unit in encoding.units]

    @property
    def _config(self) -> Any:
        return self._decoder.config

    def _cache(self, kwargs: Mapping[str, Any]) -> Cache:
        cache: Any = cache_in(kwargs)
        if cache is None:
            kept = kwargs.get("use_cache")
            if not (getattr(self._config, "use_cache", False) if kept is None else kept):
                raise UnrecordableError("no KV cache is kept (use_cache=False)")
            cache = DynamicCache(config=self._config)
        kinds, layers = (DynamicLayer, DynamicSlidingWindowLayer), cache.layers
        is_dynamic = isinstance(cache, DynamicCache) and not cache.offloading
        if not (is_dynamic and all(type(layer) in kinds for layer in layers)) and not can_be_filled(cache):
            raise UnrecordableError(f"its KV cache is a {type(cache).__name__} with other layers than of attention")
        if any(layer.is_initialized for layer in layers):
            raise UnrecordableError("its KV cache holds tokens already")
        found: Cache = cache
        return found

    @contextmanager
    def installed(self, running: Any) -> Iterator[None]:
        """Inside the block, the decoder replays where its forward says so.

        Args:
            running: finds the forward that runs in this thread (:class:`Planned`).
        """
        original = self._decoder.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            own: Planned | None = None if torch.compiler.is_compiling() else running.innermost
            replay = None if own is None else own.replay
            if own is None or replay is None:
                return original(*args, **kwargs)
            own.replay = None
            try:
                return self._replayed(own, replay)
            except UnrecordableError as error:
                self._graphs.fall_back(PART, str(error))
                self._forget()
            except Exception:
                self._forget()
                raise
            return self._planned(own, Within(replay.encodings), kwargs)

        with replaced(self._decoder, "forward", forward):
            yield

    def _planned(self, own: Planned, within: Within, kwargs: Mapping[str, Any]) -> Any:
        """The decoder's forward, planned with these encodings."""
        own.within = within
        try:
            return self._decoder(**kwargs)
        finally:
            own.within = None

    def _replayed(self, own: Planned, replay: Replay) -> Any:
        def run(inputs: Any) -> Any:
            arguments, tensors, entropies = inputs
            encodings = [_twin(*parts) for parts in zip(replay.encodings, tensors, entropies, strict=True)]
            cache, within = copy.deepcopy(replay.empty), Within(encodings, replay.filler)
            cache.activate_past_recording()
            output = self._planned(own, within, {**arguments, cache_argument(self._decoder): cache})
            if not isinstance(output, Mapping) or own.outcome is None:
                raise UnrecordableError(f"it returns a {type(output).__name__}")
            outcome = own.outcome
            return output, cache.layers, outcome.scored, outcome.stages, outcome.guard

        output, layers, *made = self._graphs.run(PART, replay.key, replay.inputs, run)
        assert own.outcome is not None
        own.outcome.scored, own.outcome.stages, own.outcome.guard = made
        own.outcome.shape, own.outcome.filler = replay.shape, replay.filler
        cut_off(layers, replay.filler, remembers(replay.empty))
        fill(replay.cache, layers)
        told: dict[str, Any] = dict(output)
        told |= {name: replay.cache for name, value in told.items() if isinstance(value, Cache)}
        told["last_hidden_state"] = told["last_hidden_state"][:, replay.asked]
        return type(output)(**told)


def _arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's arguments without the cache, and without a mask that says no more than that nothing is padding.

    Raises:
        UnrecordableError: the mask says more.
    """
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Mapping) and all(own is None for own in mask.values()):
        mask = None  # as generate() makes it for a static cache, by the type of layers
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise UnrecordableError("its attention mask was made ahead")
    unmasked = {"attention_mask": None} if "attention_mask" in kwargs else {}
    return {name: value for name, value in kwargs.items() if name not in CACHE_NAMES} | unmasked


def _tensors(encodings: Sequence[Encoding]) -> Any:
    """What planning reads of encodings besides their units: a tree of tensors."""
    return [(encoding.attention, encoding.class_rows, dict(encoding.layers)) for encoding in encodings]


def _twin(encoding: Encoding, tensors: Any, entropies: Sequence[Tensor]) -> Encoding:
    """The same encoding with other tensors."""
    attention, class_rows, layers = tensors
    units = list(encoding.units)
    if entropies:
        given = zip(units, entropies, strict=True)
        units = [replace(unit, entropy=functools.partial(_known, entropy)) for unit, entropy in given]
    return replace(encoding, units=tuple(units), attention=attention, class_rows=class_rows, layers=layers)


def _known(entropy: Tensor, _statistics: PixelStatistics) -> Tensor:
    return entropy
