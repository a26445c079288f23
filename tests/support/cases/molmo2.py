"""Molmo2 for the conformance kit: crops that overlap, patches pooled by attention."""

import numpy as np
import torch
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from support.tiny_qwen import ready
from vflowopt_hf.families.molmo2 import Molmo2
from vflowopt_hf.testing.case import Case

PAD, IMAGE, BEGIN, END, BEGIN_LOW, BEGIN_FRAME, END_FRAME, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 4, 5, 6, 8, 64
PATCH, SIDE, MARGIN, POOL, LAYERS = 6, 6, 1, 2, 6
"""Patches along a side of a view; MARGIN of them are shared with the next crop."""


def tiny_molmo2(attention: str = "sdpa") -> Molmo2ForConditionalGeneration:
    """A random model; its tower's last layer is not used."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "hidden_size": 32}
    config = Molmo2Config(
        vision_config=heads
        | {
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "patch_size": PATCH,
            "image_size": [SIDE * PATCH, SIDE * PATCH],
            "num_position_embeddings": SIDE * SIDE,
        },
        adapter_config=heads | {"vision_feature_layer": [-2, 0], "intermediate_size": 48, "text_hidden_size": 48},
        text_config={
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "vocab_size": VOCABULARY,
            "additional_vocab_size": 0,
            "num_hidden_layers": LAYERS,
            "intermediate_size": 64,
            "max_position_embeddings": 4096,
            "pad_token_id": PAD,
        },
        image_start_token_id=BEGIN,
        low_res_image_start_token_id=BEGIN_LOW,
        image_end_token_id=END,
        image_patch_id=IMAGE,
        frame_start_token_id=BEGIN_FRAME,
        frame_end_token_id=END_FRAME,
        attn_implementation=attention,
    )
    return ready(Molmo2ForConditionalGeneration(config))


class ImageProcessor:
    """What upstream's makes, which needs torchvision: the whole image, and crops of it that overlap."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        views, pooled, grids = [], [], []
        for image in (image for own in images for image in own):
            rows, columns = (max(1, min(2, round(length / (SIDE * PATCH)))) for length in image.size[::-1])
            window = SIDE - 2 * MARGIN
            height, width = rows * window + 2 * MARGIN, columns * window + 2 * MARGIN
            low, high = resized(image, SIDE, SIDE), resized(image, height, width)
            index, offset = np.full((height, width), -1), (len(views) + 1) * SIDE**2
            crops = []
            for row in range(rows):
                for column in range(columns):
                    top, left = row * window, column * window
                    own = np.arange(SIDE**2).reshape(SIDE, SIDE) + offset + len(crops) * SIDE**2
                    crops.append(high[top * PATCH : (top + SIDE) * PATCH, left * PATCH : (left + SIDE) * PATCH])
                    inner = (slice(MARGIN * (row > 0), None), slice(MARGIN * (column > 0), None))
                    index[top : top + SIDE, left : left + SIDE][inner] = own[inner]
            whole = np.arange(SIDE**2).reshape(SIDE, SIDE) + len(views) * SIDE**2
            pooled += [pooling(whole), pooling(index)]
            grids.append([SIDE // POOL, SIDE // POOL, -(-height // POOL), -(-width // POOL)])
            views += [patches_of(low), *map(patches_of, crops)]
        return {
            "pixel_values": torch.stack(views),
            "image_token_pooling": torch.cat(pooled),
            "image_grids": torch.tensor(grids),
        }


def resized(image, rows, columns):
    """float32 [height, width, 3], normalised."""
    pixels = np.asarray(image.convert("RGB").resize((columns * PATCH, rows * PATCH)), np.float32)
    return (pixels / 255 - 0.5) / 0.5


def patches_of(view):
    """[height, width, 3] -> [patches, side * side * 3]."""
    rows, columns = view.shape[0] // PATCH, view.shape[1] // PATCH
    cut = view.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4)
    return torch.from_numpy(np.ascontiguousarray(cut.reshape(rows * columns, -1)))


def pooling(index):
    """Patches [rows, columns] -> [tokens, members], -1 where a margin has none."""
    rows, columns = (-(-length // POOL) * POOL for length in index.shape)
    padded = np.pad(index, ((0, rows - index.shape[0]), (0, columns - index.shape[1])), constant_values=-1)
    cut = padded.reshape(rows // POOL, POOL, columns // POOL, POOL).transpose(0, 2, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(cut.reshape(-1, POOL * POOL)))


def video_inputs(model, videos):
    """A view per frame."""
    views, pooled, grids = [], [], []
    for video in videos:
        grids.append([len(video), SIDE // POOL, SIDE // POOL])
        for frame in (video.astype(np.float32) / 255 - 0.5) / 0.5:
            pooled.append(pooling(np.arange(SIDE**2).reshape(SIDE, SIDE) + len(views) * SIDE**2))
            views.append(patches_of(frame))
    return {
        "pixel_values_videos": torch.stack(views),
        "video_token_pooling": torch.cat(pooled),
        "video_grids": torch.tensor(grids),
    }


def prompt(model, modality, unit, placeholder):
    """The whole image, then its crops; of a video every frame."""
    low = [placeholder] * (SIDE // POOL) ** 2
    if modality == "video":
        return [BEGIN_FRAME, *low, END_FRAME] * (unit.views.stop - unit.views.start)
    return [BEGIN_LOW, *low, END, BEGIN, *[placeholder] * (unit.layout.tokens - len(low)), END]


def token_types(model, inputs, prompt):
    """1 for visual tokens, which see each other in both directions."""
    return {"mm_token_type_ids": (inputs["input_ids"] == IMAGE).long()}


CASE = Case(
    family=Molmo2(),
    model=tiny_molmo2,
    image_processor=ImageProcessor,
    image_sizes=((36, 36), (30, 90), (70, 36), (72, 72)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    images_beside_videos=False,
    prompt=prompt,
    extra_inputs=token_types,
    video=video_inputs,
    video_sizes=((2, 36, 36), (3, 36, 36)),
    observed_last=False,
)
