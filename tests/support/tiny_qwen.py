"""Tiny random Qwen2-VL models and inputs: the real architecture and image processor, small enough for tests."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from support.tiny import random_image, sharpen

TEXT, IMAGE, VIDEO, PAD, EOS = 0, 1, 2, 0, 3
VOCABULARY = 64
PATCH, MERGE, SLICE, LAYERS = 6, 2, 2, 6
FACTOR = PATCH * MERGE
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

TEXT_CONFIG = {
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}
"""Of the decoders, which differ in nothing but what they do with positions."""


def tiny_qwen2_vl(attention: str = "sdpa", *, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """A random model; weights are scaled up so that attention is far from uniform."""
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        vision_config={
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 48,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": SLICE,
        },
        text_config=copy.deepcopy(TEXT_CONFIG),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return ready(Qwen2VLForConditionalGeneration(config))


def ready(model):
    """Weights scaled up so that attention is far from uniform; generation that never ends by itself."""
    sharpen(model.eval())
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def image_processor(**options) -> Qwen2VLImageProcessorPil:
    """Upstream's own image processor, for the tiny patch size."""
    size = {"shortest_edge": FACTOR**2, "longest_edge": 60 * FACTOR**2}
    return Qwen2VLImageProcessorPil(size=size, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=SLICE, **options)


def random_video(frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [frames, height, width, 3], every frame another picture."""
    return np.stack([np.asarray(random_image(height, width, seed=100 * seed + frame)) for frame in range(frames)])


def video_patches(video: np.ndarray, *, normalise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """What upstream's video processor makes of uint8 frames (it needs torchvision): flat patches and their grid.

    Written as loops in the order of the format: slice, block row, block column, row and column in the block.
    """
    pixels = video.astype(np.float32)
    if normalise:
        pixels = (pixels / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    frames, height, width, _ = video.shape
    rows, columns = height // PATCH, width // PATCH
    found = []
    for first in range(0, frames, SLICE):
        for block_row in range(0, rows, MERGE):
            for block_column in range(0, columns, MERGE):
                for row in range(block_row, block_row + MERGE):
                    for column in range(block_column, block_column + MERGE):
                        patch = pixels[
                            first : first + SLICE,
                            row * PATCH : (row + 1) * PATCH,
                            column * PATCH : (column + 1) * PATCH,
                        ]
                        found.append(patch.transpose(3, 0, 1, 2).ravel())  # channel, frame, y, x
    return torch.from_numpy(np.stack(found)), torch.tensor([[frames // SLICE, rows, columns]])


def qwen_inputs(
    samples: Sequence[Sequence[tuple[int, ...]]], *, seed: int = 0, text: int = 7, timestamp: int = 0
) -> dict:
    """Inputs for a batch; each sample is a list of images (height, width) and videos (frames, height, width).

    Prompts have different lengths of text and are padded on the left; text surrounds and separates images and videos.
    Before each temporal slice of a video stand ``timestamp`` words.
    """
    rng = np.random.default_rng(seed)
    prompts, made = [], {IMAGE: [], VIDEO: []}
    for number, shapes in enumerate(samples):
        ids = list(rng.integers(5, VOCABULARY, 3 + number))
        for index, shape in enumerate(shapes):
            own = seed + 10 * number + index
            if len(shape) == 2:
                out = image_processor()(random_image(*shape, own), return_tensors="pt")
                kind, entry = IMAGE, (out["pixel_values"], out["image_grid_thw"])
            else:
                kind, entry = VIDEO, video_patches(random_video(*shape, own))
            made[kind].append(entry)
            slices, rows, columns = entry[1][0].tolist()
            for _ in range(slices):
                ids += list(rng.integers(5, VOCABULARY, timestamp * (kind == VIDEO)))
                ids += [kind] * (rows * columns // MERGE**2)
            ids += list(rng.integers(5, VOCABULARY, 2))
        prompts.append(ids + list(rng.integers(5, VOCABULARY, text + 2 * number)))
    longest = max(map(len, prompts))
    input_ids = torch.tensor([[PAD] * (longest - len(ids)) + [int(i) for i in ids] for ids in prompts])
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        "mm_token_type_ids": 1 * (input_ids == IMAGE) + 2 * (input_ids == VIDEO),
    }
    for kind, pixels, grid in (
        (IMAGE, "pixel_values", "image_grid_thw"),
        (VIDEO, "pixel_values_videos", "video_grid_thw"),
    ):
        if made[kind]:
            inputs[pixels], inputs[grid] = (torch.cat(parts) for parts in zip(*made[kind], strict=True))
    return inputs


def rotary_positions(model, inputs: dict, generated: int) -> torch.Tensor:
    """Positions [3, batch, queries + generated]: upstream's for the prompt, then counting on from its highest."""
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    prompt, _ = model.model.get_rope_index(**{name: inputs.get(name) for name in names})
    following = prompt.amax(dim=(0, 2))[:, None] + 1 + torch.arange(generated)
    return torch.cat([prompt, following.expand(3, -1, -1)], dim=2)
