"""Writes a model and its processor's files as ``from_pretrained`` reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from ..geometry import ASPECT, PINPOINTS, SIDE, VIEW
from ..tokenizer import build_tokenizer
from ..vocabulary import IMAGE, VIDEO


def export(model: Any, out: Path) -> Path:
    """Half-precision weights, configurations, tokenizer and processor files; ``model`` is left as it is."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).eval().to(torch.float16).save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(_image_processor(), indent=2) + "\n")
    (out / "processor_config.json").write_text(json.dumps(_processor(), indent=2) + "\n")
    return out


def _pixels() -> dict[str, Any]:
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": VIEW, "width": VIEW},
    }


def _image_processor() -> dict[str, Any]:
    grids = [list(grid) for grid in PINPOINTS]
    kind = {"image_processor_type": "LlavaOnevisionImageProcessor"}
    return {**kind, **_pixels(), "do_pad": True, "image_grid_pinpoints": grids}


def _processor() -> dict[str, Any]:
    """For upstream's own processor class, where torchvision makes it usable."""
    video = {"video_processor_type": "LlavaOnevisionVideoProcessor", **_pixels(), "do_sample_frames": False}
    return {
        "processor_class": "LlavaOnevisionProcessor",
        "image_processor": _image_processor(),
        "video_processor": video,
        "image_token": IMAGE,
        "video_token": VIDEO,
        "num_image_tokens": SIDE**2,
        "vision_aspect_ratio": ASPECT,
        "vision_feature_select_strategy": "full",
    }
