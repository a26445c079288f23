"""Perception LM for the conformance kit: a tower of another library, with a class token; tiles of their own."""

import numpy as np
import torch
from transformers import LlamaConfig, PerceptionLMConfig, PerceptionLMForConditionalGeneration

from support.cases.llava import text_shape
from support.cases.paligemma import tower
from support.timm_like import WIDTH, Transformer, Wrapper
from support.tiny import IMAGE, PAD
from support.tiny_qwen import ready
from vflowopt_hf.families.perception_lm import PerceptionLM
from vflowopt_hf.testing.case import Case

PATCH, SIDE, POOL, TILES, FIRST_WORD = 6, 6, 2, 3, 10


def tiny_perception_lm(attention: str = "sdpa", *, class_token: bool = True) -> PerceptionLMForConditionalGeneration:
    """A random model whose tower stands for one of timm."""
    torch.manual_seed(0)
    vision = tower()
    vision.model_args = {"embed_dim": WIDTH}
    config = PerceptionLMConfig(
        vision_config=vision,
        text_config=LlamaConfig(**text_shape()),
        vision_use_cls_token=class_token,
        projector_pooling_ratio=POOL,
        image_token_id=IMAGE,
        video_token_id=2,
        attn_implementation=attention,
    )
    model = PerceptionLMForConditionalGeneration(config)
    model.model.vision_tower = Wrapper(Transformer(PATCH, SIDE**2, class_token=class_token))
    return ready(model)


class ImageProcessor:
    """What upstream's makes, which needs torchvision: the whole image, and here always two tiles."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        made = []
        for image in (image for own in images for image in own):
            whole = np.asarray(image.convert("RGB").resize((SIDE * PATCH, SIDE * PATCH)))
            wide = np.asarray(image.convert("RGB").resize((2 * SIDE * PATCH, SIDE * PATCH)))
            made.append(np.stack([whole, *np.split(wide, TILES - 1, axis=1)]))
        pixels = (np.stack(made).astype(np.float32) / 255 - 0.5) / 0.5
        return {"pixel_values": torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).copy())}


CASE = Case(
    family=PerceptionLM(),
    model=tiny_perception_lm,
    image_processor=ImageProcessor,
    image_sizes=((36, 36), (30, 90), (70, 36)),
    pad_token=PAD,
    first_word=FIRST_WORD,
)
