"""Gemma 4 for the conformance kit: heads of two sizes, one key head in layers without a window."""

from dataclasses import replace

import numpy as np
import torch
from transformers import Gemma4Config, Gemma4ForConditionalGeneration
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil, convert_image_to_patches

from support.tiny import sharpen
from vflowopt_hf.families.gemma4 import Gemma4
from vflowopt_hf.testing.case import Case
from vflowopt_hf.upstream import installed

VIDEOS = installed() >= (5, 24)
"""Transformers 5.20 loses the counts of frames on their way; releases between the two were not tried."""

PAD, IMAGE, VIDEO, BEGIN, END, EOS, TIME, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 4, 5, 9, 10, 64
PATCH, POOL, WINDOW = 4, 2, 20
SLIDING, FULL = "sliding_attention", "full_attention"
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}


def tiny_gemma4(attention: str = "sdpa", *, seed: int = 0, **text) -> Gemma4ForConditionalGeneration:
    """A random model of the 31B kind, or with experts that of the 26B."""
    torch.manual_seed(seed)
    config = Gemma4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "pooling_kernel_size": POOL,
            "patch_size": PATCH,
            "position_embedding_size": 512,
        },
        text_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "global_head_dim": 16,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "vocab_size": VOCABULARY,
            "sliding_window": WINDOW,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL],
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "use_bidirectional_attention": "vision",
            "max_position_embeddings": 4096,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": EOS,
            **text,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        boi_token_id=BEGIN,
        eoi_token_id=END,
        audio_token_id=6,
        boa_token_id=7,
        attn_implementation=attention,
    )
    model = Gemma4ForConditionalGeneration(config).eval()
    sharpen(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(10.0)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.mul_(1.3)
            elif name.endswith("position_embedding_table"):
                parameter.normal_(std=0.3)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, None
    return model


def tiny_gemma4_moe(attention: str = "sdpa") -> Gemma4ForConditionalGeneration:
    """With experts beside the MLP."""
    return tiny_gemma4(attention, **EXPERTS)


def processor() -> Gemma4ImageProcessorPil:
    """Upstream's own, for the tiny sizes."""
    return Gemma4ImageProcessorPil(patch_size=PATCH, pooling_kernel_size=POOL, max_soft_tokens=70)


def prompt(model, modality, unit, placeholder):
    """Each view between its markers; a time before each frame of a video."""
    views = unit.views.stop - unit.views.start
    view = [BEGIN, *[placeholder] * (unit.layout.tokens // views), END]
    return view if modality == "image" else [TIME, *view] * views


def token_types(model, inputs, prompt):
    """0 for text, 1 for images, 2 for videos."""
    ids = inputs["input_ids"]
    return {"mm_token_type_ids": 1 * (ids == IMAGE) + 2 * (ids == VIDEO)}


def video_inputs(model, videos):
    """What upstream's video processor makes, which needs torchvision: frames padded to one length."""
    longest = max(video.shape[1] * video.shape[2] for video in videos) // PATCH**2 + POOL**2
    pixels, places = [], []
    for video in videos:
        rows, columns = video.shape[1] // PATCH, video.shape[2] // PATCH
        own = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
        more = (0, longest - len(own))
        for frame in video.astype(np.float32) / 255:
            pixels.append(np.pad(convert_image_to_patches(frame.transpose(2, 0, 1), PATCH), (more, (0, 0))))
            places.append(np.pad(own, (more, (0, 0)), constant_values=-1))
    return {
        "pixel_values_videos": torch.from_numpy(np.stack(pixels)),
        "video_position_ids": torch.from_numpy(np.stack(places)),
        "num_frames_per_video": torch.tensor([len(video) for video in videos]),
    }


CASE = Case(
    family=Gemma4(),
    model=tiny_gemma4,
    image_processor=processor,
    image_sizes=((64, 64), (40, 120), (150, 60)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
    extra_inputs=token_types,
    video=video_inputs if VIDEOS else None,
    video_sizes=((2, 24, 32), (3, 16, 16)) if VIDEOS else (),
)

SIBLINGS = (replace(CASE, model=tiny_gemma4_moe, name="gemma4-experts"),)
