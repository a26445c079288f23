"""LLaVA-NeXT: CLIP with its class token, any-resolution tiles without interpolation, Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from ..geometry import PATCH, PINPOINTS, SIDE, VIEW, Canvas, unpadded_grid
from ..recipes import WITH_DECODER, Phase
from ..vocabulary import IMAGE, VOCABULARY
from .codes import sines
from .tiled import Tiled


class LlavaNext(Tiled):
    """CLIP (112 px, patch 8, 5 layers of 160 and a sixth whose output is not used) and Llama with attention biases."""

    name: ClassVar[str] = "reference-next"
    model_type: ClassVar[str] = "llava_next"
    model_class: ClassVar[Any] = LlavaNextForConditionalGeneration
    image_processor_class: ClassVar[Any] = LlavaNextImageProcessorPil
    mean: ClassVar[tuple[float, float, float]] = (0.48145466, 0.4578275, 0.40821073)
    std: ClassVar[tuple[float, float, float]] = (0.26862954, 0.26130258, 0.27577711)
    phases: ClassVar[tuple[Phase, ...]] = WITH_DECODER
    decoder_from: ClassVar[str | None] = "reference"

    def configuration(self) -> LlavaNextConfig:
        """See the class."""
        vision = CLIPVisionConfig(
            hidden_size=160,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=480,
            image_size=VIEW,
            patch_size=PATCH,
            projection_dim=160,
        )
        text = LlamaConfig(
            **self.decoder(), attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
        )
        return LlavaNextConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=VOCABULARY[IMAGE],
            image_grid_pinpoints=[list(grid) for grid in PINPOINTS],
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=SIDE**2,
            tie_word_embeddings=True,
        )

    def processor_files(self) -> Mapping[str, Mapping[str, Any]]:
        """For upstream's own processor class too."""
        image = {
            "image_processor_type": "LlavaNextImageProcessor",
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "crop_size": {"height": VIEW, "width": VIEW},
            "image_grid_pinpoints": [list(grid) for grid in PINPOINTS],
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": VIEW},
        }
        whole = {
            "processor_class": "LlavaNextProcessor",
            "image_token": IMAGE,
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
        }
        return {"preprocessor_config.json": image, "processor_config.json": whole}

    def image_lengths(self, pixels: Mapping[str, Any]) -> list[int]:
        """Every image is tiled, also where several share a prompt."""
        return [image_tokens((int(height), int(width))) for height, width in pixels["image_sizes"].tolist()]

    def clips(self, videos: Sequence[Any]) -> tuple[Mapping[str, Tensor], list[int]]:  # noqa: ARG002
        """Refuses."""
        raise ValueError("LLaVA-NeXT takes images only; for clips use the model 'reference' or 'reference-qwen2vl'")

    @torch.no_grad()
    def prepare_tower(self, model: Any, weight: Tensor, mean: Tensor) -> None:
        """The patch embedding has no bias: the mean goes into the position embeddings."""
        embeddings = model.model.vision_tower.embeddings
        codes = 0.5 * sines(SIDE, embeddings.position_embedding.weight.shape[1])
        embeddings.position_embedding.weight[1:].copy_(codes - weight @ mean)
        embeddings.patch_embedding.weight.copy_(weight.view_as(embeddings.patch_embedding.weight))

    def cell_vectors(self, model: Any, pixels: Tensor) -> Tensor:
        """``[views, 196, width]``, class token left out."""
        hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        vectors: Tensor = model.model.multi_modal_projector(hidden)
        return vectors

    def pack(self, model: Any, vectors: Tensor, canvas: Canvas) -> Tensor:
        """By upstream's own code."""
        packed, _ = model.model.pack_image_features(
            list(vectors),
            torch.tensor([canvas] * len(vectors)),
            vision_feature_select_strategy="default",
            image_newline=model.model.image_newline,
        )
        return torch.stack(list(packed))


def image_tokens(size: Canvas) -> int:
    """Visual tokens of an image of any size: base view, unpadded grid, newlines."""
    rows, columns = unpadded_grid(size)
    return int(SIDE**2 + rows * (columns + 1))
