"""LLaVA-NeXT-Video for the conformance kit. Frames of 7 x 7 patches are pooled to 3 x 3: a margin is left out."""

import torch
from transformers import LlamaConfig, LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

from support.cases import llava
from support.cases.llava_next import SIZES, image_processor
from support.tiny import IMAGE, PAD, PINPOINTS, VIDEO
from vflowopt_hf.families.llava_next_video import LlavaNextVideo
from vflowopt_hf.testing.case import Case


def tiny_llava_next_video(attention: str = "sdpa", **options) -> LlavaNextVideoForConditionalGeneration:
    """A random model; options go to its configuration."""
    torch.manual_seed(0)
    config = LlavaNextVideoConfig(
        vision_config=options.pop("vision_config", None) or llava.clip_tower(),
        text_config=LlamaConfig(**llava.text_shape()),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS[1:],
        attn_implementation=attention,
        **options,
    )
    return llava.ready(LlavaNextVideoForConditionalGeneration(config))


def video_inputs(model, videos):
    """Pixels [videos, frames, 3, side, side]: upstream prepares a frame as LLaVA-1.5 does an image."""
    frames = [llava.image_processor()(list(video), return_tensors="pt")["pixel_values"] for video in videos]
    return {"pixel_values_videos": torch.stack(frames)}


CASE = Case(
    family=LlavaNextVideo(),
    model=tiny_llava_next_video,
    image_processor=image_processor,
    image_sizes=SIZES,
    pad_token=PAD,
    first_word=5,
    video=video_inputs,
    video_sizes=((6, 42, 42), (6, 60, 90)),  # upstream stacks the videos of a batch
)
