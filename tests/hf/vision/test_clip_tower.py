"""Which attention of a CLIP tower is observed, that its class token is left out, and what is refused."""

import pytest
import torch
from transformers import PixtralVisionConfig, SiglipVisionConfig

from support.cases.llava import TOWER_LAYERS, tiny_llava
from support.cases.llava_next import tiny_llava_next
from support.cases.llava_next_video import tiny_llava_next_video
from support.tiny import CROP, LAYERS, PATCH, SIDE
from vflowopt import Strategy, prune
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.vision.capture import TorchAttention, capture_attention

MODELS = {"llava": tiny_llava, "llava-next": tiny_llava_next, "llava-next-video": tiny_llava_next_video}
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5,), stages=(0,), threshold=1.2)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TOWERS = {
    "siglip_vision_model": SiglipVisionConfig(**SMALL, image_size=CROP, patch_size=PATCH, vision_use_head=False),
    "pixtral": PixtralVisionConfig(**SMALL, image_size=CROP, patch_size=PATCH),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_class_token_is_left_out_of_rows_and_columns(attention):
    family, pixels = Llava(), torch.randn(2, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # only eager attention can tell its weights
        weights = tiny_llava("eager").model.vision_tower(pixels, output_attentions=True).attentions[-2].mean(1)
    model = tiny_llava(attention)
    with capture_attention(family.vision_attention(model), family.class_tokens) as capture, capture.recording() as seen:
        model.model.get_image_features(pixels)
    source = TorchAttention.of_calls(seen, family.class_tokens)
    patches = weights[:, 1:, 1:]
    assert patches.shape == (2, SIDE * SIDE, SIDE * SIDE)
    torch.testing.assert_close(source.received(), patches.sum(1), rtol=1e-5, atol=1e-5)
    rows = (torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3).float()
    torch.testing.assert_close(source.received(rows), (rows[..., None] * patches).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("feature_layer", "block"), [(-2, 2), (-1, 3), (1, 0), (4, 3), ([-4, -2], 2), ([1, 0], 0)])
def test_the_observed_layer_is_the_last_that_the_projector_uses(feature_layer, block):
    """Entry i of the hidden states is the output of block i - 1; entry 0 is the embedding."""
    model = tiny_llava(vision_feature_layer=feature_layer)
    layers = model.model.vision_tower.encoder.layers
    assert len(layers) == TOWER_LAYERS
    assert Llava().vision_attention(model) is layers[block].self_attn


def refused(model, message):
    """``prune`` refuses the model, and leaves it as it is."""
    modules = [module for module in model.modules() if hasattr(module, "config")]
    configs = [module.config for module in modules]
    with pytest.raises(UnsupportedModelError, match=message), prune(model, STRATEGY):
        pass
    assert all(module.config is config for module, config in zip(modules, configs, strict=True))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_a_class_token_among_the_features_is_refused(name):
    refused(MODELS[name](vision_feature_select_strategy="full"), f"'full' keeps .* the {name} adapter knows 'default'")


@pytest.mark.parametrize("tower", TOWERS)
def test_another_tower_is_refused(tower):
    refused(tiny_llava(vision_config=TOWERS[tower]), f"vision tower of type '{tower}'; .*'clip_vision_model'")


@pytest.mark.parametrize("feature_layer", [0, -TOWER_LAYERS - 1, [0]])
def test_features_without_attention_are_refused(feature_layer):
    refused(tiny_llava(vision_feature_layer=feature_layer), "embedding, which no attention has reached")


@pytest.mark.parametrize("name", MODELS)
def test_models_find_their_adapter(name):
    """No adapter is named, and the installed ones are asked: pruning opens and closes."""
    with prune(MODELS[name](), STRATEGY):
        pass
