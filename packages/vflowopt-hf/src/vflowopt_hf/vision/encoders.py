"""Observe the backbone's vision encoders: which units they encoded, and what the vision attention did meanwhile.

Transformers encodes images in ``get_image_features`` (and videos in ``get_video_features``), called either by the
backbone's forward or, ahead of it, by ``generate``. Inside the block both are replaced, on this one instance, by
wrappers that call them and remember the units of each output.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from vflowopt.arrays import HostInts
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.graphs.store import Graphs, Seen
from vflowopt_hf.graphs.trees import identity
from vflowopt_hf.hooks.compiling import as_written, eagerly, unwrapped
from vflowopt_hf.hooks.installing import Installed, claimed, replaced
from vflowopt_hf.hooks.running import Door
from vflowopt_hf.upstream import warn_if_untested
from vflowopt_hf.vision.capture import TorchAttention, VisionCapture, capture_attention
from vflowopt_hf.vision.class_rows import ClassRowCapture, ClassRows, capture_class_rows
from vflowopt_hf.vision.features import Features
from vflowopt_hf.vision.graphed_tower import graphed_tower, tower_of
from vflowopt_hf.vision.host_arguments import HostArguments
from vflowopt_hf.vision.layer_sources import LayerCapture, capture_layers
from vflowopt_hf.vision.observing import is_observed
from vflowopt_hf.vision.resampling import capture_resampler, resampled
from vflowopt_hf.vision.vision_call import packed_positions

MODALITIES = ("image", "video")


@dataclass(frozen=True, eq=False)
class Encoding:
    """One call of a vision encoder.

    Attributes:
        modality: "image" or "video".
        units: what was encoded, in the order of the features.
        attention: the observed attention over all views of the call.
        class_rows: class attention of layers before the observed one, over the same views.
        layers: attention of such layers that somebody asked for, by number, over the same views.
        features: what was returned, by which a later forward refers to it.
        tokens_per_unit: of one prompt's token ids, see :meth:`vflowopt_hf.family.Family.tokens_per_unit`.
        copies: how often ``generate`` has repeated the features since, for beams or several returned sequences.
        key: what tells calls apart whose units differ; ``None`` where nobody asks, or they always do.
    """

    modality: str
    units: tuple[Unit, ...]
    attention: TorchAttention
    class_rows: ClassRows
    layers: Mapping[int, TorchAttention]
    features: Features
    tokens_per_unit: Callable[[HostInts], Sequence[int] | None]
    copies: int = 1
    key: Hashable | None = None


class EncoderTap(Installed):
    """Encodings that all threads have made inside the block, as long as their features are alive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._known: list[tuple[int, int, Encoding]] = []  # number, thread that made it

    def add(self, encoding: Encoding) -> None:
        """Remember an encoding, and forget those whose features are gone."""
        with self._lock:
            self._drop(lambda known: not known.features.are_alive)
            self._known.append((self._count, threading.get_ident(), encoding))
            self._count += 1

    def mark(self) -> int:
        """A point in time, for :meth:`since`; encodings whose features are gone by then are forgotten."""
        with self._lock:
            self._drop(lambda known: not known.features.are_alive)
            return self._count

    def since(self, mark: int) -> list[Encoding]:
        """Encodings that this thread has made after :meth:`mark`."""
        own = threading.get_ident()
        with self._lock:
            return [known for number, thread, known in self._known if number >= mark and thread == own]

    def forget(self, encodings: Sequence[Encoding]) -> None:
        """Let encodings go before their features do."""
        with self._lock:
            self._drop(lambda known: any(known is one for one in encodings))

    def _drop(self, unwanted: Callable[[Encoding], bool]) -> None:
        self._known = [entry for entry in self._known if not unwanted(entry[2])]

    def find(self, outputs: Any) -> list[Encoding]:
        """The encodings behind the outputs of each modality, whichever thread made them.

        Args:
            outputs: what ``mm_encoder_outputs`` holds: a mapping from modality to an output or ``None``, or ``None``.

        Raises:
            UnsupportedOperationError: an output was not made inside this block, so its attention is unknown.
        """
        given = outputs if isinstance(outputs, Mapping) else {"": outputs}
        return [self._behind(name, output) for name, output in given.items() if output is not None]

    def _behind(self, modality: str, output: Any) -> Encoding:
        with self._lock:
            latest = [encoding for _, _, encoding in reversed(self._known)]
        for encoding in latest:
            copies = encoding.features.copies_in(output) if encoding.modality == modality else 0
            if copies:
                return replace(encoding, copies=copies)
        raise UnsupportedOperationError(
            f"the precomputed {modality} features (mm_encoder_outputs) are not, as they are, what this prune block has "
            f"seen an encoder return, so there is no attention to prune by; make them inside it and leave them whole "
            f"(no prefill_chunk_size), or pass pixel values"
        )


@contextmanager
def tap_encoders(
    family: Family,
    model: Any,
    layers: int | None = None,
    *,
    whole: Collection[int] = (),
    values: bool = False,
    graphs: Graphs | None = None,
) -> Iterator[EncoderTap]:
    """Observe the encoders of a model's backbone inside the block.

    Args:
        family: of the model.
        model: the model.
        layers: of how many vision layers, counted back from the observed one, class attention is captured; by default
            of all, for strategies that are not known yet: a row per layer is little.
        whole: numbers of vision layers whose whole attention is captured, besides the observed one.
        values: whether the values of the observed one are captured.
        graphs: holds recordings of the tower; ``None`` if it always runs eagerly.

    Raises:
        StrategyError: there is no layer of a number.
        UnsupportedModelError: the vision attention cannot be observed.
        PruningStateError: the model is being pruned or observed already.
    """
    warn_if_untested()
    backbone = unwrapped(family.backbone(model))
    tap, door = EncoderTap(), Door()
    with ExitStack() as stack:
        with door.opening():
            stack.enter_context(claimed(backbone, tap))
            observed = family.vision_attention(model)
            capture = stack.enter_context(capture_attention(observed, family.class_tokens_of(model), values=values))
            earlier = stack.enter_context(capture_class_rows(family, model, layers))
            others = stack.enter_context(capture_layers(family, model, whole))
            resampler = stack.enter_context(capture_resampler(family, model))
            decoder = unwrapped(family.decoder(model))
            seen = [module for module in backbone.modules() if is_observed(module)]
            stack.enter_context(eagerly(model, seen, lambda module: decoder in module.modules()))
            host = HostArguments(family.host_arguments)
            if graphs is not None or family.host_arguments:
                tower, recorders = tower_of(backbone, observed), (capture, earlier, others)
            if graphs is not None:
                stack.enter_context(graphed_tower(tower, graphs, functools.partial(_noted, recorders)))
            if family.host_arguments:
                stack.enter_context(host.kept_from(tower))
            for name, method in family.without_waits(backbone).items():
                stack.enter_context(replaced(backbone, name, method))
            for modality in MODALITIES:
                name = f"get_{modality}_features"
                original = getattr(backbone, name, None)
                if original is not None:
                    original = as_written(original)
                    recording = (capture, earlier, others, resampler)
                    encode = _observed(original, family, model, modality, tap, door, host, *recording, graphs)
                    stack.enter_context(replaced(backbone, name, encode))
        stack.callback(door.close)
        yield tap


def _observed(
    original: Callable[..., Any],
    family: Family,
    model: Any,
    modality: str,
    tap: EncoderTap,
    door: Door,
    host: HostArguments,
    capture: VisionCapture,
    earlier: ClassRowCapture,
    others: LayerCapture,
    resampler: VisionCapture | None,
    graphs: Graphs | None,
) -> Callable[..., Any]:
    signature, met = inspect.signature(original), Seen()

    @functools.wraps(original)  # generate() reads the signature
    def encode(*args: Any, **kwargs: Any) -> Any:
        # One encoder calls another, for example that of videos the one of images.
        if capture.is_recording or not door.enter():
            return original(*args, **kwargs)
        try:
            return observe(args, kwargs)
        finally:
            door.leave()

    def observe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = host.placed(signature, args, kwargs)
        arguments = signature.bind(*args, **kwargs).arguments
        key = None if graphs is None or resampler is not None else _key(modality, arguments)
        find = functools.partial(family.units, model, modality, arguments)
        # What is wrong with a call is said before the tower runs. With one like an earlier nothing is: no need to wait.
        early = None if key in met else find()
        asking = nullcontext() if resampler is None else resampler.recording()
        with capture.recording() as calls, earlier.recording() as rows, others.recording() as sources, asking as asked:
            output = original(*args, **kwargs)
        units = tuple(find() if early is None else early)
        if key is not None:
            met.add(key)
        units = units if asked is None else resampled(units, asked)
        views = max((unit.views.stop for unit in units), default=0)
        class_tokens = family.class_tokens_of(model)
        packed = packed_positions(units, class_tokens)
        read = functools.partial(TorchAttention.of_calls, class_tokens=class_tokens, packed=packed)
        layers = {number: read(own) for number, own in sources.items() if own}
        for number in sources:
            if number not in layers or len(layers[number]) != views:
                raise UnsupportedOperationError(
                    f"vision layer {number} attends within windows, so it has no attention over whole views; choose "
                    f"another layer"
                )
        attention = read(calls) if calls else ()
        for seen in map(len, (attention, *rows.values())):
            if seen != views:
                raise UnsupportedOperationError(
                    f"the observed vision attention saw {seen} views in one call of {original.__name__}, not the "
                    f"{views} of its inputs; parts of a tower that are compiled must be so before the block"
                )
        if attention and not isinstance(output, tuple):
            told = functools.partial(family.tokens_per_unit, model, modality)
            class_rows = ClassRows(earlier.depth, tuple(map(tuple, rows.values())))
            tap.add(Encoding(modality, units, attention, class_rows, layers, Features.of(output), told, key=key))
        return output

    return encode


def _key(modality: str, arguments: Mapping[str, Any]) -> Hashable | None:
    """See :attr:`Encoding.key`."""
    told = identity(arguments)
    return None if told is None else (modality, told)


def _noted(recorders: Sequence[VisionCapture | ClassRowCapture | LayerCapture]) -> list[list[Any]]:
    """The lists that are being filled in this thread."""
    return [entries for recorder in recorders for entries in recorder.noted]
