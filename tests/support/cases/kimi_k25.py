"""Kimi-K2.5 for the conformance kit: latent attention (MLA), experts, and videos in chunks of two frames."""

import torch
from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration

from support.cases.qwen2_vl import SIZES
from support.row_patches import RowPatches, patches_of
from support.tiny_qwen import EOS, IMAGE, LAYERS, PAD, PATCH, VIDEO, VOCABULARY, ready
from vflowopt_hf.families.kimi_k25 import KimiK25
from vflowopt_hf.testing.case import Case
from vflowopt_hf.upstream import installed

VIDEOS = installed() >= (5, 24)
"""Transformers 5.20 fails on chunks of several frames; releases between the two were not tried."""

CHUNK, TIME, FIRST_WORD = 2, 4, 5


def tiny_kimi_k25(attention: str = "sdpa") -> Kimi_K25ForConditionalGeneration:
    """A random model; one of its layers is dense."""
    torch.manual_seed(0)
    config = Kimi_K25Config(
        vision_config={
            "patch_size": PATCH,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
            "pos_emb_time": 4,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "merge_kernel_size": (2, 2),
        },
        text_config={
            "model_type": "deepseek_v3",
            "hidden_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 64,
            "moe_intermediate_size": 32,
            "vocab_size": VOCABULARY,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 4096,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": EOS,
        },
        projection_hidden_size=32,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    model = ready(Kimi_K25ForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(10.0)
            elif name.endswith("gate.weight"):  # so sharp a router would turn rounding errors into other experts
                parameter.div_(3.0)
            elif "pos_emb" in name:
                parameter.normal_(std=0.3)
            elif name.endswith(("q_b_proj.weight", "kv_a_proj_with_mqa.weight")):
                parameter.mul_(3.0)
    return model


def video_inputs(model, videos):
    """Flat patches and grids of all chunks of several videos."""
    chunks = [video[start : start + CHUNK] for video in videos for start in range(0, len(video), CHUNK)]
    patches, grids = zip(*map(patches_of, chunks), strict=True)
    return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}


def prompt(model, modality, unit, placeholder):
    """A chunk of a video has a time before it."""
    return [*[TIME] * (modality == "video"), *[placeholder] * unit.layout.tokens]


CASE = Case(
    family=KimiK25(),
    model=tiny_kimi_k25,
    image_processor=RowPatches,
    pad_token=PAD,
    first_word=FIRST_WORD,
    parts_are_units=True,
    prompt=prompt,
    video=video_inputs if VIDEOS else None,
    image_sizes=SIZES["image_sizes"],
    video_sizes=SIZES["video_sizes"] if VIDEOS else (),
)
