"""Nemotron-H Omni for the conformance kit: layers of four kinds, images of any size in one sequence."""

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import NemotronH_Omni_Reasoning_V3

from support.cases.qwen2_vl import SIZES
from support.row_patches import patches_of, pixels_of
from support.tiny_qwen import EOS, IMAGE, PAD, PATCH, VOCABULARY, ready
from vflowopt_hf.families.nemotron_h import NemotronHOmni
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.recurrent import mamba2

LAYERS = ["linear_attention", "moe", "full_attention", "linear_attention", "mlp", "full_attention", "linear_attention"]


class FlatPatches:
    """What upstream's processor makes, which needs torchvision; images are as large as they are."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        flat = [image for own in images for image in (own if isinstance(own, list) else [own])]
        patches, grids = zip(*(patches_of(pixels_of(image)[None]) for image in flat), strict=True)
        grid = torch.from_numpy(np.array([own[1:] for own in grids]))
        return {"pixel_values": torch.cat([own.flatten(1) for own in patches]), "image_grid_hw": grid}


def tiny_nemotron_h(attention: str = "sdpa") -> NemotronH_Omni_Reasoning_V3:
    """A random model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "nemotron_h_omni",
        vision_config={
            "model_type": "radio",
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": PATCH,
            "max_img_size": 16 * PATCH,
            "num_cls_tokens": 2,
            "num_registers": 3,
            "video_temporal_patch_size": 2,
            "dtype": "float32",
        },
        text_config={
            "model_type": "nemotron_h",
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "vocab_size": VOCABULARY,
            "layers_block_type": LAYERS,
            "ssm_state_size": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "chunk_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
            "max_position_embeddings": 4096,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": EOS,
        },
        projector_hidden_size=48,
        vision_hidden_size=32,
        image_token_id=IMAGE,
    )
    config._attn_implementation = attention
    model = ready(NemotronH_Omni_Reasoning_V3(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("dt_bias", "A_log")):
                parameter.normal_()
    return model


CASE = Case(
    family=NemotronHOmni(),
    model=tiny_nemotron_h,
    image_processor=FlatPatches,
    image_sizes=SIZES["image_sizes"],
    pad_token=PAD,
    first_word=10,
    recurrent={"mixer": mamba2},
)

_BEAMS = "upstream gives the beams of a prompt with several images each image in turn, unpruned, too"
UPSTREAM_FAULTS = {"beam search-eager": _BEAMS, "beam search-sdpa": _BEAMS}
