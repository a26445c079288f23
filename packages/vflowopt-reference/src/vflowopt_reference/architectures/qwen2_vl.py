"""Qwen2-VL: native resolution, 2 x 2 patches per visual token, multimodal rotary positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..geometry import PATCH, Canvas
from ..recipes import WITH_DECODER_LONGER, Phase
from ..vocabulary import IMAGE, TURN_END, TURN_START, VIDEO, VOCABULARY
from .base import HEAD, Architecture

MERGE, SLICE = 2, 2
CELL = MERGE * PATCH
FEWEST, MOST = 112 * 112, 1_003_520
"""Pixels of an image after resizing."""


class Qwen2VL(Architecture):
    """A tower of 5 layers of 160 with patches of 8 px, 16 px per visual token, and the Qwen2-VL decoder."""

    name: ClassVar[str] = "reference-qwen2vl"
    model_type: ClassVar[str] = "qwen2_vl"
    model_class: ClassVar[Any] = Qwen2VLForConditionalGeneration
    image_processor_class: ClassVar[Any] = Qwen2VLImageProcessorPil
    mean: ClassVar[tuple[float, float, float]] = (0.48145466, 0.4578275, 0.40821073)
    std: ClassVar[tuple[float, float, float]] = (0.26862954, 0.26130258, 0.27577711)
    cell: ClassVar[int] = CELL
    phases: ClassVar[tuple[Phase, ...]] = WITH_DECODER_LONGER
    decoder_from: ClassVar[str | None] = "reference"

    def configuration(self) -> Any:
        """See the class."""
        vision = {
            "depth": 5,
            "embed_dim": 160,
            "hidden_size": 160,
            "mlp_ratio": 3,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": SLICE,
        }
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 8, 8]}
        return Qwen2VLConfig(
            vision_config=vision,
            text_config={**self.decoder(), "rms_norm_eps": 1e-6, "rope_parameters": rope},
            image_token_id=VOCABULARY[IMAGE],
            video_token_id=VOCABULARY[VIDEO],
            vision_start_token_id=VOCABULARY[TURN_START],
            vision_end_token_id=VOCABULARY[TURN_END],
            tie_word_embeddings=True,
        )

    def processor_files(self) -> Mapping[str, Mapping[str, Any]]:
        """For upstream's own processor class too, where torchvision makes it usable."""
        image = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "merge_size": MERGE,
            "patch_size": PATCH,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": FEWEST, "longest_edge": MOST},
            "temporal_patch_size": SLICE,
        }
        return {"preprocessor_config.json": image, "processor_config.json": {"processor_class": "Qwen2VLProcessor"}}

    def image_lengths(self, pixels: Mapping[str, Any]) -> list[int]:
        """A quarter of the patches."""
        return [int(count) // MERGE**2 for count in pixels["image_grid_thw"].prod(-1)]

    def clips(self, videos: Sequence[Any]) -> tuple[Mapping[str, Tensor], list[int]]:
        """Frames in pairs, the last one repeated if their number is odd; every clip has frames of one size.

        A frame's sides are rounded to multiples of 16 pixels.
        """
        patches, grids = list[Tensor](), list[list[int]]()
        for clip in videos:
            if not len(clip):
                raise ValueError("a clip needs at least one frame")
            frames = [raw if isinstance(raw, Image.Image) else Image.fromarray(raw) for raw in clip]
            width, height = (max(CELL, round(side / CELL) * CELL) for side in frames[0].size)
            frames += frames[-1:] * (len(frames) % SLICE)
            resized = [frame.convert("RGB").resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
            pixels = self.normalise(np.stack([np.asarray(frame) for frame in resized]))
            patches.append(flat_patches(pixels[None])[0])
            grids.append([len(frames) // SLICE, height // PATCH, width // PATCH])
        grid = torch.tensor(grids)
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": grid}, (grid.prod(-1) // MERGE**2).tolist()

    def further_inputs(self, input_ids: Tensor) -> Mapping[str, Tensor]:
        """0 for text, 1 for images, 2 for clips."""
        return {"mm_token_type_ids": (input_ids == VOCABULARY[IMAGE]) + 2 * (input_ids == VOCABULARY[VIDEO]).long()}

    def views(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as it is: canvases are multiples of a cell."""
        return image[None]

    def planes(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The whole plane."""
        return plane[None]

    @torch.no_grad()
    def prepare_tower(self, model: Any, weight: Tensor, mean: Tensor) -> None:  # noqa: ARG002
        """The embedding sums over the two frames of a slice. It has no bias; the first norm takes the mean's place."""
        projection = model.model.visual.patch_embed.proj.weight
        frame = weight.view(len(weight), 3, 1, PATCH, PATCH) / SLICE
        projection.copy_(frame.expand_as(projection))

    def cell_vectors(self, model: Any, pixels: Tensor) -> Tensor:
        """``[views, visual tokens, width]``."""
        count, _, height, width = pixels.shape
        flat = flat_patches(pixels[:, None].expand(-1, SLICE, -1, -1, -1))
        grid = torch.tensor([[1, height // PATCH, width // PATCH]] * count)
        merged = model.model.visual(flat.flatten(0, 1), grid_thw=grid).pooler_output
        split: Tensor = merged.unflatten(0, (count, -1))
        return split

    def pack(self, model: Any, vectors: Tensor, canvas: Canvas) -> Tensor:  # noqa: ARG002
        """They are the visual tokens."""
        return vectors[:, 0]

    def positions(self, canvas: Canvas, visual: int, offset: Tensor) -> Tensor:  # noqa: ARG002
        """Time, row and column of visual tokens; text goes on behind the longest side."""
        rows, columns = canvas[0] // CELL, canvas[1] // CELL
        grid = HEAD + torch.from_numpy(np.indices((1, rows, columns)).reshape(3, -1))
        head = torch.arange(HEAD).expand(3, -1)
        visible = torch.cat([head, grid], 1)[:, None].expand(-1, len(offset), -1)
        text = HEAD + max(rows, columns) + offset
        return torch.cat([visible, text.expand(3, -1, -1)], 2)


def flat_patches(frames: Tensor) -> Tensor:
    """Pixels in the order of the architecture: ``[B, frames, 3, h, w]`` to ``[B, patches, 3 * 2 * 8 * 8]``."""
    count, _, channels, height, width = frames.shape
    split = frames.reshape(
        count, -1, SLICE, channels, height // CELL, MERGE, PATCH, width // CELL, MERGE, PATCH
    )  # batch, slice, frame, channel, row, row in token, y, column, column in token, x
    return split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(count, -1, channels * SLICE * PATCH**2)
