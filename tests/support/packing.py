"""What upstream's own encoders make of known patch features, to hold geometry against."""

import torch
from torch import Tensor


def upstream_tokens(model, encode, patch_map: Tensor) -> list[Tensor]:
    """What upstream's encoder makes of features that all equal the patch map, its newline being 0: [N] per unit.

    Args:
        model: a LLaVA of any kind.
        encode: calls ``get_image_features`` or ``get_video_features``.
        patch_map: [views, patches].
    """
    backbone = model.model
    features = patch_map[..., None].repeat(1, 1, model.config.text_config.hidden_size)
    newline = getattr(backbone, "image_newline", torch.zeros(0)).data
    kept = newline.clone()
    newline.zero_()
    try:
        with backbone.multi_modal_projector.register_forward_hook(lambda *_: features), torch.no_grad():
            return [tokens[:, 0] for tokens in encode().pooler_output]
    finally:
        newline.copy_(kept)


def upstream_pooled(model, encode, patch_map: Tensor) -> list[Tensor]:
    """The same where upstream pools before it projects: its pooler sees the patch map in every channel."""
    backbone = model.model
    features = patch_map[..., None].repeat(1, 1, model.config.vision_config.hidden_size)
    with (
        backbone.vision_resampler.register_forward_pre_hook(lambda *_: (features,)),
        backbone.multi_modal_projector.register_forward_hook(lambda _module, args, _output: args[0]),
        torch.no_grad(),
    ):
        return [tokens[:, 0] for tokens in encode().pooler_output]
