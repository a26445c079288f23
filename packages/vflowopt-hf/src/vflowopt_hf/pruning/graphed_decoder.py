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

from vflowopt.arrays import HostInts
from vflowopt_hf.decoder.filling import can_be_filled, fill
from vflowopt_hf.graphs.modules import Recorded
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.graphs.trees import UnknownArgumentError, signature, tensors_of
from vflowopt_hf.graphs.watch import UnrecordableError
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.outcome import Outcome
from vflowopt_hf.upstream import CACHE_NAMES, cache_argument, cache_in
from vflowopt_hf.vision.encoders import Encoding

PART = "decoder"


@dataclass(frozen=True, eq=False)
class Prompt:
    """What planning reads of a prompt.

    Attributes:
        ids: int64 [batch, queries], on the host.
        mask: bool or int [batch, queries] on the host, 0 for padding; or ``None``.
        following: tokens at its end that come after the prompt.
        placeholders: token id of each modality.
    """

    ids: Tensor | None
    mask: Any
    following: int
    placeholders: Mapping[str, int]

    def key(self, encodings: Sequence[Encoding]) -> Hashable:
        """What tells prompts apart whose tokens have the same roles.

        Raises:
            UnrecordableError: there is padding, or nothing to tell.
        """
        if self.ids is None:
            raise UnrecordableError("it was called with embeddings in place of token ids")
        if self.mask is not None and not (isinstance(self.mask, Tensor) and bool(self.mask.all())):
            raise UnrecordableError("prompts of the batch are padded")
        ids: HostInts = self.ids.numpy()
        places = tuple((modality, (ids == token).tobytes()) for modality, token in self.placeholders.items())
        told = tuple(
            None if lengths is None else tuple(lengths)
            for encoding in encodings
            for lengths in map(encoding.tokens_per_unit, ids)
        )
        return ids.shape, places, told, self.following


class Planned(Protocol):
    """The state of a forward, as far as it matters here."""

    outcome: Outcome | None
    replay: "Replay | None"
    within: Sequence[Encoding] | None


@dataclass(frozen=True, eq=False)
class Replay:
    """A prefill that is to be replayed in the decoder's place.

    Attributes:
        key: what the host has decided with.
        arguments: keyword arguments of the decoder, but the cache.
        cache: empty; dynamic or static.
        empty: the dynamic one that the decoder fills while it is recorded.
        encodings: behind the visual tokens.
        entropies: of each unit of each of them, where the strategy reads them.
    """

    key: Hashable
    arguments: Mapping[str, Any]
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
    """

    def __init__(
        self,
        decoder: nn.Module,
        graphs: Graphs,
        statistics: PixelStatistics | None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._decoder, self._graphs, self._statistics, self._forget = decoder, graphs, statistics, forget
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
        tensors = tensors_of((arguments, _tensors(encodings)))
        reason = reason or self._graphs.reason_against(tensors)
        if reason is not None:
            raise UnrecordableError(reason)
        encoded = tuple((encoding.key, encoding.copies) for encoding in encodings)
        if any(key is None for key, _ in encoded):
            raise UnrecordableError("its images were encoded before the block, or by a resampler")
        layers = tuple(map(type, empty.layers))
        key = (state, layers, prompt.key(encodings), encoded, signature(arguments), *map(signature, tensors))
        if not self._graphs.is_due(PART, key):
            return None
        return Replay(key, arguments, cache, empty, encodings, [self._entropies(encoding) for encoding in encodings])

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
            return self._planned(own, replay.encodings, kwargs)

        with replaced(self._decoder, "forward", forward):
            yield

    def _planned(self, own: Planned, encodings: Sequence[Encoding], kwargs: Mapping[str, Any]) -> Any:
        """The decoder's forward, planned with these encodings."""
        own.within = encodings
        try:
            return self._decoder(**kwargs)
        finally:
            own.within = None

    def _replayed(self, own: Planned, replay: Replay) -> Any:
        def run(inputs: Any) -> Any:
            arguments, tensors, entropies = inputs
            encodings = [_twin(*parts) for parts in zip(replay.encodings, tensors, entropies, strict=True)]
            cache = copy.deepcopy(replay.empty)
            output = self._planned(own, encodings, {**arguments, cache_argument(self._decoder): cache})
            if not isinstance(output, Mapping) or own.outcome is None:
                raise UnrecordableError(f"it returns a {type(output).__name__}")
            outcome = own.outcome
            return output, cache.layers, outcome.shape, outcome.scored, outcome.stages, outcome.guard

        output, layers, *made = self._graphs.run(PART, replay.key, replay.inputs, run)
        assert own.outcome is not None
        own.outcome.shape, own.outcome.scored, own.outcome.stages, own.outcome.guard = made
        fill(replay.cache, layers)
        return type(output)(
            **{name: replay.cache if isinstance(value, Cache) else value for name, value in output.items()}
        )


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
