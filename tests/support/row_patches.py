"""Flat patches row by row: what processors make that need torchvision, written with NumPy alone."""

import numpy as np
import torch

from support.tiny_qwen import FACTOR, PATCH


class RowPatches:
    """Images resized to whole visual tokens and cut to patches, row by row."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        flat = [image for own in images for image in (own if isinstance(own, list) else [own])]
        patches, grids = zip(*(patches_of(pixels_of(image)[None]) for image in flat), strict=True)
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}


def pixels_of(image):
    """uint8 [height, width, 3] of a PIL image, in whole visual tokens."""
    width, height = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in image.size)
    return np.asarray(image.convert("RGB").resize((width, height)))


def patches_of(frames):
    """uint8 [frames, height, width, 3] -> float [patches, 3, side, side], and (frames, rows, columns)."""
    normal = torch.from_numpy((frames.astype(np.float32) / 255 - 0.5) / 0.5)
    count, height, width, _ = frames.shape
    rows, columns = height // PATCH, width // PATCH
    cut = normal.reshape(count, rows, PATCH, columns, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(-1, 3, PATCH, PATCH), (count, rows, columns)
