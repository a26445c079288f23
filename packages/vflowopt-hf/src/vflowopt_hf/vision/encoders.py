"""Observe the backbone's vision encoders: which units they encoded, and what the vision attention did meanwhile.

Transformers encodes images in ``get_image_features`` (and videos in ``get_video_features``), called either by the
backbone's forward or, ahead of it, by ``generate``. Inside the block both are replaced, on this one instance, by
wrappers that call them and remember the units of each output object.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from vflowopt.arrays import HostInts
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.upstream import warn_if_untested
from vflowopt_hf.vision.capture import TorchAttention, VisionCapture, capture_attention
from vflowopt_hf.vision.class_rows import ClassRowCapture, ClassRows, capture_class_rows

MODALITIES = ("image", "video")


@dataclass(frozen=True, eq=False)
class Encoding:
    """One call of a vision encoder.

    Attributes:
        modality: "image" or "video".
        units: what was encoded, in the order of the features.
        attention: the observed attention over all views of the call.
        class_rows: class attention of layers before the observed one, over the same views.
        output: the encoder's output object, by which a later forward refers to it; not kept alive from here.
        entries: how many entries the output's features had when they were made.
        tokens_per_unit: of one prompt's token ids, see :meth:`vflowopt_hf.family.Family.tokens_per_unit`.
    """

    modality: str
    units: tuple[Unit, ...]
    attention: TorchAttention
    class_rows: ClassRows
    output: weakref.ref[Any]
    entries: int
    tokens_per_unit: Callable[[HostInts], Sequence[int] | None]

    def expansion(self) -> int:
        """How often ``generate`` has repeated the features since, for beams or several returned sequences."""
        features = getattr(self.output(), "pooler_output", None)
        return 1 if features is None or not self.entries else len(features) // self.entries


@dataclass(eq=False)
class EncoderTap:
    """Encodings made inside the block whose outputs are still alive."""

    _encodings: list[Encoding] = field(default_factory=list)

    def add(self, encoding: Encoding) -> None:
        """Remember an encoding, and forget those whose output is gone."""
        self._encodings = [known for known in self._encodings if known.output() is not None]
        self._encodings.append(encoding)

    def mark(self) -> int:
        """A point in time, for :meth:`since`."""
        self._encodings = [known for known in self._encodings if known.output() is not None]
        return len(self._encodings)

    def since(self, mark: int) -> list[Encoding]:
        """Encodings made after :meth:`mark`."""
        return self._encodings[mark:]

    def find(self, outputs: Mapping[str, Any]) -> list[Encoding]:
        """The encodings behind the output objects of each modality.

        Raises:
            UnsupportedOperationError: an output was not made inside this block, so its attention is unknown.
        """
        found = []
        for modality, output in outputs.items():
            known = [encoding for encoding in self._encodings if encoding.output() is output]
            if not known:
                raise UnsupportedOperationError(
                    f"the precomputed {modality} features (mm_encoder_outputs) were made outside this prune block and "
                    f"carry no attention to prune by; make them inside it, or pass pixel values"
                )
            found.append(known[-1])
        return found


@contextmanager
def tap_encoders(family: Family, model: Any, layers: int | None = None) -> Iterator[EncoderTap]:
    """Observe the encoders of a model's backbone inside the block.

    Args:
        family: of the model.
        model: the model.
        layers: of how many vision layers, counted back from the observed one, class attention is captured; by default
            of all, for strategies that are not known yet: a row per layer is little.

    Raises:
        UnsupportedModelError: the vision attention cannot be observed.
    """
    warn_if_untested()
    backbone = family.backbone(model)
    tap = EncoderTap()
    with (
        capture_attention(family.vision_attention(model), family.class_tokens) as capture,
        capture_class_rows(family, model, layers) as earlier,
    ):
        replaced = {}
        try:
            for modality in MODALITIES:
                name = f"get_{modality}_features"
                original = getattr(backbone, name, None)
                if original is not None:
                    replaced[name] = backbone.__dict__.get(name)
                    setattr(backbone, name, _observed(original, family, model, modality, tap, capture, earlier))
            yield tap
        finally:
            for name, own in replaced.items():
                delattr(backbone, name)
                if own is not None:
                    setattr(backbone, name, own)


def _observed(
    original: Callable[..., Any],
    family: Family,
    model: Any,
    modality: str,
    tap: EncoderTap,
    capture: VisionCapture,
    earlier: ClassRowCapture,
) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)  # generate() reads the signature
    def encode(*args: Any, **kwargs: Any) -> Any:
        if capture.is_recording:  # one encoder calls another, for example that of videos the one of images
            return original(*args, **kwargs)
        units = tuple(family.units(model, modality, signature.bind(*args, **kwargs).arguments))
        with capture.recording() as calls, earlier.recording() as rows:
            output = original(*args, **kwargs)
        views = max((unit.views.stop for unit in units), default=0)
        for seen in (sum(map(len, calls)), *map(len, rows)):
            if seen != views:
                raise UnsupportedOperationError(
                    f"the observed vision attention saw {seen} views in one call of {original.__name__}, not the "
                    f"{views} of its inputs"
                )
        if calls and not isinstance(output, tuple):
            features = getattr(output, "pooler_output", None)
            entries = 0 if features is None else len(features)
            told = functools.partial(family.tokens_per_unit, model, modality)
            joined, class_rows = TorchAttention.joined(calls), ClassRows(earlier.depth, tuple(map(tuple, rows)))
            tap.add(Encoding(modality, units, joined, class_rows, weakref.ref(output), entries, told))
        return output

    return encode
