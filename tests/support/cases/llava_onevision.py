"""LLaVA-OneVision for the conformance kit."""

import torch

from support.tiny import PAD, image_processor, tiny_onevision
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.testing.case import Case


def video_inputs(model, videos):
    """Pixels [videos, frames, 3, side, side]: upstream prepares a frame as it does an image's base crop."""
    frames = [image_processor()(list(video), return_tensors="pt")["pixel_values"][:, 0] for video in videos]
    return {"pixel_values_videos": torch.stack(frames)}


CASE = Case(
    family=LlavaOnevision(),
    model=tiny_onevision,
    image_processor=image_processor,
    image_sizes=((42, 42), (30, 150), (120, 40), (80, 60)),
    pad_token=PAD,
    first_word=5,
    video=video_inputs,
    video_sizes=((5, 42, 42), (5, 30, 60)),  # upstream stacks the videos of a batch
)
