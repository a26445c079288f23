"""What the conformance kit must know about a family: a tiny random model of it and how its inputs are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vflowopt_hf.family import Family, Unit
from vflowopt_hf.testing.recurrent import Mixer

Video = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Case:
    """A family with a tiny random model, for the conformance kit.

    The kit builds prompts and batches itself: random text around the placeholders of images and videos, as many as
    ``family.units`` says, padded on the left.

    Attributes:
        family: the adapter to prove right.
        model: attention implementation ("eager" or "sdpa") -> tiny random model in float32 and ``eval()``, the same
            at every call. Its weights should be scaled up so that attention is far from uniform; about 6 decoder
            layers of width 32 to 48 and 64 token ids keep the kit fast.
            ``generation_config.eos_token_id`` must be None, and ``pad_token_id`` set.
        image_processor: upstream's own image processor for the tiny sizes, without torchvision.
        image_sizes: three or four (height, width) in pixels that exercise the family's geometry: square, wide, tall,
            several crops.
        pad_token: id to pad prompts with.
        first_word: ids from here to the end of the vocabulary are free to use as text.
        several_images: may one prompt hold several images.
        images_beside_videos: may one forward hold both.
        parts_are_units: are the parts of an image or video, such as its tiles, units of their own, as nothing tells
            which of them belong together; ``prompt`` is then asked for each part.
        video: (model, videos, each uint8 [frames, height, width, 3]) -> pixel inputs as upstream's video processor,
            which needs torchvision, makes them; None for a family without videos.
        video_sizes: (frames, height, width) of videos to try; one at least if ``video`` is given.
        prompt: (model, modality, unit, placeholder id) -> ids that stand for one unit in a prompt; by default as many
            placeholders as the unit has tokens. For families with separators between the placeholders.
        extra_inputs: (model, inputs, prompt) -> tensors that upstream's processor would make beside ``input_ids``, such
            as ``mm_token_type_ids``. Also called on inputs whose ``input_ids`` are longer by generated text; the first
            ``prompt`` positions are the prompt.
        observed_last: False if the observed vision attention is meant not to be the last of its class that reaches
            the features, for example because the later ones attend within windows.
        text_only: may a sample of a batch hold no image.
        recurrent: what the recurrent layers of the decoder must compute, by the attribute under which a layer has its
            mixer (:mod:`vflowopt_hf.testing.recurrent`); for decoders that have such layers.
        name: of the case in the ids of tests; by default the family's.
    """

    family: Family
    model: Callable[[str], Any]
    image_processor: Callable[[], Any]
    image_sizes: tuple[tuple[int, int], ...]
    pad_token: int
    first_word: int
    several_images: bool = True
    images_beside_videos: bool = True
    parts_are_units: bool = False
    video: Callable[[Any, list[Video]], dict[str, Tensor]] | None = None
    video_sizes: tuple[tuple[int, int, int], ...] = ()
    prompt: Callable[[Any, str, Unit, int], list[int]] | None = None
    extra_inputs: Callable[[Any, dict[str, Tensor], int], dict[str, Tensor]] | None = None
    observed_last: bool = True
    text_only: bool = True
    recurrent: Mapping[str, Mixer] = field(default_factory=dict)
    name: str = ""

    @property
    def label(self) -> str:
        """What the case is called."""
        return self.name or self.family.name
