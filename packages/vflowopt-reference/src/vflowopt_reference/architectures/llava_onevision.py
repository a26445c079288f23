"""LLaVA-OneVision: SigLIP, any-resolution tiles with interpolation, Qwen2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from ..geometry import ASPECT, PATCH, PINPOINTS, SIDE, VIEW, Canvas, unpadded_grid
from ..recipes import FROM_NOTHING, Phase
from ..vocabulary import IMAGE, VIDEO, VOCABULARY
from .codes import sines
from .tiled import Tiled

SHARED_TOKENS = SIDE**2 + 1
"""Visual tokens of each image that shares its prompt with others: no tiles, one newline."""


class LlavaOnevision(Tiled):
    """SigLIP (112 px, patch 8, 5 layers of 160) and Qwen2."""

    name: ClassVar[str] = "reference"
    model_type: ClassVar[str] = "llava_onevision"
    model_class: ClassVar[Any] = LlavaOnevisionForConditionalGeneration
    image_processor_class: ClassVar[Any] = LlavaOnevisionImageProcessorPil
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    phases: ClassVar[tuple[Phase, ...]] = FROM_NOTHING

    def configuration(self) -> LlavaOnevisionConfig:
        """See the class."""
        vision = SiglipVisionConfig(
            hidden_size=160,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=480,
            image_size=VIEW,
            patch_size=PATCH,
            vision_use_head=False,
        )
        return LlavaOnevisionConfig(
            vision_config=vision,
            text_config=Qwen2Config(**self.decoder(), rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
            image_token_index=VOCABULARY[IMAGE],
            video_token_index=VOCABULARY[VIDEO],
            image_grid_pinpoints=[list(grid) for grid in PINPOINTS],
            vision_aspect_ratio=ASPECT,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )

    def processor_files(self) -> Mapping[str, Mapping[str, Any]]:
        """For upstream's own processor class too, where torchvision makes it usable."""
        pixels = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": VIEW, "width": VIEW},
        }
        grids = [list(grid) for grid in PINPOINTS]
        kind = {"image_processor_type": "LlavaOnevisionImageProcessor"}
        image = {**kind, **pixels, "do_pad": True, "image_grid_pinpoints": grids}
        whole = {
            "processor_class": "LlavaOnevisionProcessor",
            "image_processor": image,
            "video_processor": {
                "video_processor_type": "LlavaOnevisionVideoProcessor",
                **pixels,
                "do_sample_frames": False,
            },
            "image_token": IMAGE,
            "video_token": VIDEO,
            "num_image_tokens": SIDE**2,
            "vision_aspect_ratio": ASPECT,
            "vision_feature_select_strategy": "full",
        }
        return {"preprocessor_config.json": image, "processor_config.json": whole}

    def image_lengths(self, pixels: Mapping[str, Any]) -> list[int]:
        """A prompt's only image is tiled; images that share a prompt are not."""
        sharing = [count for count in pixels["batch_num_images"].tolist() for _ in range(count)]
        sizes = [(int(height), int(width)) for height, width in pixels["image_sizes"].tolist()]
        return [image_tokens(size) if n == 1 else SHARED_TOKENS for size, n in zip(sizes, sharing, strict=True)]

    def clips(self, videos: Sequence[Any]) -> tuple[Mapping[str, Tensor], list[int]]:
        """``pixel_values_videos [clips, frames, 3, 112, 112]``; each frame is squeezed to a view, as upstream does."""
        counts = {len(clip) for clip in videos}
        if len(counts) != 1:
            raise ValueError(f"clips of one batch must have equally many frames, got {sorted(counts)}")
        if counts == {0}:
            raise ValueError("a clip needs at least one frame")

        def frame(raw: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
            image = raw if isinstance(raw, Image.Image) else Image.fromarray(raw)
            return np.asarray(image.convert("RGB").resize((VIEW, VIEW), Image.Resampling.BICUBIC))

        pixels = self.normalise(np.stack([np.stack([frame(raw) for raw in clip]) for clip in videos]))
        return {"pixel_values_videos": pixels}, [frame_tokens(pixels.shape[1])] * len(videos)

    @torch.no_grad()
    def prepare_tower(self, model: Any, weight: Tensor, mean: Tensor) -> None:
        """Positions start on sines and cosines."""
        embeddings = model.model.vision_tower.embeddings
        embeddings.position_embedding.weight.copy_(0.5 * sines(SIDE, embeddings.position_embedding.weight.shape[1]))
        embeddings.patch_embedding.weight.copy_(weight.view_as(embeddings.patch_embedding.weight))
        embeddings.patch_embedding.bias.copy_(-(weight @ mean))

    def cell_vectors(self, model: Any, pixels: Tensor) -> Tensor:
        """``[views, 196, width]``."""
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        vectors: Tensor = model.model.multi_modal_projector(hidden)
        return vectors

    def pack(self, model: Any, vectors: Tensor, canvas: Canvas) -> Tensor:
        """By upstream's own code."""
        packed, _ = model.model.pack_image_features(
            list(vectors),
            torch.tensor([canvas] * len(vectors)),
            image_newline=model.model.image_newline,
            vision_aspect_ratio=model.config.vision_aspect_ratio,
        )
        return torch.stack(list(packed))


def image_tokens(size: Canvas) -> int:
    """Visual tokens of an image of any size that is alone in its prompt: base view, unpadded grid, newlines."""
    rows, columns = unpadded_grid(size)
    ratio = math.sqrt(rows * columns / (int(ASPECT.removeprefix("anyres_max_")) * SIDE**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return SIDE**2 + rows * (columns + 1)


def frame_tokens(frames: int) -> int:
    """Visual tokens of a clip: each frame pooled to half its side, one newline for all."""
    return frames * math.ceil(SIDE / 2) ** 2 + 1
