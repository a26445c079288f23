"""The thinker of Qwen3-Omni for the conformance kit."""

from dataclasses import replace

import torch
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from support.cases import qwen3_vl
from support.cases.qwen2_5_omni import AUDIO, AUDIO_TOWER, BEGIN, BEGIN_AUDIO, FIRST_WORD, prompt, video_inputs
from support.tiny_qwen import IMAGE, VIDEO
from vflowopt_qwen.omni import Qwen3Omni

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 0,
}


def tiny_qwen3_omni(attention: str = "sdpa") -> Qwen3OmniMoeThinkerForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Qwen3OmniMoeThinkerConfig(
        vision_config=qwen3_vl.VISION | {"image_size": 48},
        text_config=qwen3_vl.TEXT | EXPERTS,
        audio_config=AUDIO_TOWER | {"downsample_hidden_size": 8},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
        vision_start_token_id=BEGIN,
        audio_start_token_id=BEGIN_AUDIO,
        position_id_per_seconds=13,
        attn_implementation=attention,
    )
    return qwen3_vl.sharpened(Qwen3OmniMoeThinkerForConditionalGeneration(config))


CASE = replace(
    qwen3_vl.CASE,
    family=Qwen3Omni(),
    model=tiny_qwen3_omni,
    first_word=FIRST_WORD,
    prompt=prompt,
    video=video_inputs,
    extra_inputs=None,
)
