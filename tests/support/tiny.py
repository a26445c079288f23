"""Tiny random LLaVA-OneVision models and inputs: the real architecture and image processor, small enough for tests."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

IMAGE, VIDEO, PAD, EOS = 1, 2, 0, 3
VOCABULARY = 64
CROP, PATCH, LAYERS = 42, 6, 6
SIDE = CROP // PATCH
PINPOINTS = [[CROP, CROP], [CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [CROP, 3 * CROP], [3 * CROP, CROP]]


def sharpen(model: torch.nn.Module) -> None:
    """Scale random weights up, so that attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight")):
                parameter.mul_(12.0)
            elif "embed" not in name and parameter.ndim == 2:
                parameter.mul_(3.0)


def tiny_onevision(
    attention: str = "sdpa", *, seed: int = 0, aspect: str = "anyres_max_9", side: int = SIDE
) -> LlavaOnevisionForConditionalGeneration:
    """A random model with side x side patches; weights are scaled up so that attention is far from uniform."""
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=side * PATCH,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=aspect,
        attn_implementation=attention,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    sharpen(model)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def tiny_qwen2_decoder(attention: str = "sdpa", window: int = 20) -> LlavaOnevisionForConditionalGeneration:
    """LLaVA-OneVision whose Qwen2 decoder slides from its third layer on."""
    base = tiny_onevision(attention)
    config = base.config
    config.text_config.sliding_window = window
    config.text_config.layer_types = ["full_attention"] * 2 + ["sliding_attention"] * 4
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.load_state_dict(base.state_dict())
    model.generation_config = base.generation_config
    return model


def image_processor() -> LlavaOnevisionImageProcessorPil:
    """Upstream's own image processor, for the tiny crop size."""
    return LlavaOnevisionImageProcessorPil(
        size={"height": CROP, "width": CROP}, image_grid_pinpoints=PINPOINTS, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def random_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise with a few flat blocks, so that patches differ in entropy and attention."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 3, : width // 2] = rng.integers(0, 256, 3)
    pixels[height // 2 :, width // 3 : width // 2] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def image_tokens(model: LlavaOnevisionForConditionalGeneration, pixels: torch.Tensor, sizes: torch.Tensor) -> list[int]:
    """How many tokens upstream makes of each image, asked of upstream itself."""
    with torch.no_grad():
        features = model.model.get_image_features(pixels, sizes, batch_num_images=[1] * len(sizes))
    return [len(feature) for feature in features.pooler_output]


def image_inputs(
    model: LlavaOnevisionForConditionalGeneration,
    samples: Sequence[Sequence[tuple[int, int]]],
    *,
    seed: int = 0,
    text: int = 7,
) -> dict[str, torch.Tensor]:
    """Inputs for a batch; each sample is a list of image sizes (height, width), empty for text only.

    Prompts have different lengths of text and are padded on the left; text surrounds and separates images.
    """
    rng = np.random.default_rng(seed)
    prompts, pixels, sizes, counts = [], [], [], []
    for number, shapes in enumerate(samples):
        ids = list(rng.integers(5, VOCABULARY, 3 + number))
        for index, (height, width) in enumerate(shapes):
            made = image_processor()(random_image(height, width, seed + 10 * number + index), return_tensors="pt")
            own, size = made["pixel_values"], made["image_sizes"]
            # Upstream tiles only a sample's single image.
            tokens = image_tokens(model, own, size)[0] if len(shapes) == 1 else SIDE * SIDE + 1
            ids += [IMAGE] * tokens + list(rng.integers(5, VOCABULARY, 2))
            pixels.append(own[0])
            sizes.append(size[0])
        ids += list(rng.integers(5, VOCABULARY, text + 2 * number))
        prompts.append(ids)
        counts.append(len(shapes))
    longest = max(map(len, prompts))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (longest - len(ids)) + [int(i) for i in ids] for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
    }
    if pixels:
        most = max(len(own) for own in pixels)
        inputs["pixel_values"] = torch.stack(
            [torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]) for own in pixels]
        )
        inputs["image_sizes"] = torch.stack(sizes)
        inputs["batch_num_images"] = torch.tensor([count for count in counts if count])
    return inputs


def video_inputs(frames: int, *, batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of prompts with one video each."""
    generator = torch.Generator().manual_seed(seed)
    pooled = -(-SIDE // 2)
    ids = torch.randint(5, VOCABULARY, (batch, 12), generator=generator)
    placeholders = torch.full((batch, frames * pooled * pooled + 1), VIDEO)
    input_ids = torch.cat([ids[:, :4], placeholders, ids[:, 4:]], dim=1)
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values_videos": torch.randn(batch, frames, 3, CROP, CROP, generator=generator).clamp(-1, 1),
    }
