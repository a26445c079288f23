"""Prompts and batches for any family: random text around the placeholders of random images and videos."""

import inspect
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vflowopt.arrays import HostInts
from vflowopt.testing import fail
from vflowopt_hf.family import Unit
from vflowopt_hf.testing.case import Case
from vflowopt_hf.vision.unit_joining import join

Media = npt.NDArray[np.uint8]
"""An image [height, width, 3] or a video [frames, height, width, 3]."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One prompt: random text from ``seed`` around images and videos; the same in every batch."""

    media: tuple[Media, ...] = ()
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PlacedMedia:
    """Where a unit's visual tokens stand: sample, and the row of each token in the batch's sequences."""

    unit: Unit
    modality: str
    sample: int
    rows: HostInts


@dataclass(frozen=True, eq=False)
class Batch:
    """What ``model(**inputs)`` takes.

    Attributes:
        inputs: everything.
        pixels: the part of ``inputs`` that does not depend on the text.
        placed: every image and video, in prompt order.
    """

    inputs: dict[str, Tensor]
    pixels: dict[str, Tensor]
    placed: tuple[PlacedMedia, ...]


def noise(shape: tuple[int, ...], seed: int) -> Media:
    """Random pixels of a (height, width) or (frames, height, width), none of them black."""
    return np.random.default_rng(seed).integers(32, 256, (*shape, 3), dtype=np.uint8)


def picture(shape: tuple[int, ...], seed: int) -> Media:
    """Noise with a flat block, so that patches differ in entropy and attention."""
    pixels = noise(shape, seed)
    height, width = shape[-2:]
    pixels[..., : height // 3, : width // 2, :] = pixels[..., :1, :1, :]
    return pixels


def vocabulary(model: Any) -> int:
    """Number of token ids."""
    return int(model.get_input_embeddings().num_embeddings)


def build(case: Case, model: Any, samples: Sequence[Sample]) -> Batch:
    """Inputs for a batch, padded on the left."""
    pixels = _pixels(case, model, samples)
    everything = [media for sample in samples for media in sample.media]
    units = {
        modality: _units_shown(case, model, modality, pixels, [own for own in everything if _modality(own) == modality])
        for modality in {_modality(media) for media in everything}
    }
    prompts: list[list[int]] = []
    found: list[tuple[Unit, str, int, HostInts]] = []
    for number, sample in enumerate(samples):
        words = np.random.default_rng(1000 + sample.seed)
        ids = _text(case, model, words, 3 + sample.seed % 3)
        for media in sample.media:
            modality = _modality(media)
            placeholder = case.family.placeholder_ids(model)[modality]
            for unit in units[modality].popleft():
                own = [placeholder] * unit.layout.tokens
                if case.prompt is not None:
                    own = case.prompt(model, modality, unit, placeholder)
                found.append((unit, modality, number, len(ids) + np.flatnonzero(np.array(own) == placeholder)))
                ids = [*ids, *own]
            ids += _text(case, model, words, 2)
        prompts.append([*ids, *_text(case, model, words, 6 + sample.seed % 4)])
    longest = max(map(len, prompts))
    inputs = {
        "input_ids": torch.tensor([[case.pad_token] * (longest - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
    }
    placed = tuple(
        PlacedMedia(unit, modality, number, rows + longest - len(prompts[number]))
        for unit, modality, number, rows in found
    )
    return Batch(with_extra_inputs(case, model, inputs | pixels), pixels, placed)


def with_extra_inputs(
    case: Case, model: Any, inputs: dict[str, Tensor], prompt: int | None = None
) -> dict[str, Tensor]:
    """``inputs`` and what the case adds to them; ``prompt`` positions are no generated text, by default all."""
    if case.extra_inputs is None:
        return inputs
    return {**inputs, **case.extra_inputs(model, inputs, inputs["input_ids"].shape[1] if prompt is None else prompt)}


def units_of(case: Case, model: Any, modality: str, pixels: Mapping[str, Any]) -> Sequence[Unit]:
    """The family's units of pixel inputs, asked as the runtime asks when upstream encodes them."""
    return case.family.units(model, modality, encoder_arguments(case, model, modality, pixels))


def encoder_arguments(case: Case, model: Any, modality: str, pixels: Mapping[str, Any]) -> dict[str, Any]:
    """What of the pixel inputs the backbone's ``get_<modality>_features`` takes."""
    names = inspect.signature(getattr(case.family.backbone(model), f"get_{modality}_features")).parameters
    return {name: value for name, value in pixels.items() if name in names}


def _units_shown(
    case: Case, model: Any, modality: str, pixels: Mapping[str, Any], shown: Sequence[Media]
) -> deque[Sequence[Unit]]:
    """The unit of each image or video, or the units, where its parts are some.

    A family that gives parts gives as many for one that is shown alone.
    """
    parts = deque(units_of(case, model, modality, pixels))
    if len(parts) == len(shown):
        return deque([part] for part in parts)
    alone: dict[tuple[int, ...], int] = {}
    for media in shown:
        if media.shape not in alone:
            alone[media.shape] = len(units_of(case, model, modality, _pixels(case, model, [Sample((media,))])))
    if sum(alone[media.shape] for media in shown) != len(parts):
        fail(
            f"Family.units finds {len(parts)} units in pixels of {len(shown)} {modality}s, but "
            f"{[alone[media.shape] for media in shown]} in those of each alone"
        )
    cut = ([parts.popleft() for _ in range(alone[media.shape])] for media in shown)
    return deque(own if case.parts_are_units else [join(own)] for own in cut)


def _modality(media: Media) -> str:
    return "image" if media.ndim == 3 else "video"


def _pixels(case: Case, model: Any, samples: Sequence[Sample]) -> dict[str, Tensor]:
    images = [[Image.fromarray(media) for media in sample.media if media.ndim == 3] for sample in samples]
    videos = [media for sample in samples for media in sample.media if media.ndim == 4]
    made: dict[str, Any] = {}
    if any(images):
        made |= case.image_processor()(images, return_tensors="pt")
    if videos:
        assert case.video is not None
        made |= case.video(model, videos)
    names = inspect.signature(model.forward).parameters  # processors return more than models take
    return {name: torch.as_tensor(value) for name, value in made.items() if name in names}


def _text(case: Case, model: Any, words: np.random.Generator, length: int) -> list[int]:
    return [int(word) for word in words.integers(case.first_word, vocabulary(model), length)]
