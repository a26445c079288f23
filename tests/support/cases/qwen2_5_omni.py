"""The thinker of Qwen2.5-Omni for the conformance kit."""

import copy
from dataclasses import replace

import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from support.cases import qwen2_5_vl
from support.tiny_qwen import FACTOR, IMAGE, MERGE, PATCH, SLICE, TEXT_CONFIG, VIDEO, ready
from vflowopt_qwen.omni import Qwen25Omni

AUDIO, BEGIN, BEGIN_AUDIO, END, END_AUDIO, FIRST_WORD = 4, 5, 6, 7, 8, 9

AUDIO_TOWER = {
    "num_mel_bins": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "d_model": 16,
    "output_dim": 48,
    "max_source_positions": 32,
}


def tiny_qwen2_5_omni(attention: str = "sdpa") -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": SLICE,
            "window_size": 2 * FACTOR,
            "fullatt_block_indexes": [0, 2],
        },
        text_config={name: value for name, value in copy.deepcopy(TEXT_CONFIG).items() if name != "bos_token_id"},
        audio_config=dict(AUDIO_TOWER),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
        audio_start_token_id=BEGIN_AUDIO,
        audio_end_token_id=END_AUDIO,
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        attn_implementation=attention,
    )
    return ready(Qwen2_5OmniThinkerForConditionalGeneration(config))


def prompt(model, modality, unit, placeholder):
    """An image or video between its markers."""
    return [BEGIN, *[placeholder] * unit.layout.tokens, END]


def video_inputs(model, videos):
    """With the time that a temporal slice spans, which positions are scaled by."""
    inputs = qwen2_5_vl.video_inputs(model, videos)
    return inputs | {"video_second_per_grid": torch.full((len(videos),), qwen2_5_vl.SECONDS_PER_SLICE)}


CASE = replace(
    qwen2_5_vl.CASE,
    family=Qwen25Omni(),
    model=tiny_qwen2_5_omni,
    first_word=FIRST_WORD,
    prompt=prompt,
    video=video_inputs,
    extra_inputs=None,
)
