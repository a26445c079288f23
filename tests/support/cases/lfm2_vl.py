"""LFM2-VL for the conformance kit: views padded to one length, and two of five decoder layers attend."""

import torch
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

from support.cases.qwen2_vl import SIZES
from support.row_patches import patches_of, pixels_of
from support.tiny_qwen import EOS, IMAGE, PAD, PATCH, VOCABULARY, ready
from vflowopt_hf.families.lfm2_vl import Lfm2VL
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.recurrent import short_convolution

LONGEST = 150  # patches of a view, padding included


class PaddedPatches:
    """What upstream's processor makes, which needs torchvision; images are as large as they are."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        flat = [image for own in images for image in (own if isinstance(own, list) else [own])]
        patches, grids = zip(*(patches_of(pixels_of(image)[None]) for image in flat), strict=True)
        pixels, mask = torch.zeros(len(flat), LONGEST, 3 * PATCH**2), torch.zeros(len(flat), LONGEST, dtype=torch.long)
        for view, own in enumerate(patches):
            pixels[view, : len(own)], mask[view, : len(own)] = own.permute(0, 2, 3, 1).flatten(1), 1
        shapes = torch.tensor([grid[1:] for grid in grids])
        return {"pixel_values": pixels, "spatial_shapes": shapes, "pixel_attention_mask": mask}


def tiny_lfm2_vl(attention: str = "sdpa", *, seed: int = 0) -> Lfm2VlForConditionalGeneration:
    """A random model."""
    torch.manual_seed(seed)
    config = Lfm2VlConfig(
        vision_config={
            "model_type": "siglip2_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_patches": 64,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "lfm2",
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"],
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": EOS,
        },
        projector_hidden_size=48,
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    model = ready(Lfm2VlForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("conv.conv.weight", "q_layernorm.weight")):
                parameter.mul_(2.0)
    return model


CASE = Case(
    family=Lfm2VL(),
    model=tiny_lfm2_vl,
    image_processor=PaddedPatches,
    image_sizes=SIZES["image_sizes"],
    pad_token=PAD,
    first_word=5,
    recurrent={"conv": short_convolution},
)
