"""The adapter proved right on a tiny random Mistral 3 model, by vflowopt's conformance kit."""

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from vflowopt_hf.testing import Case, conformance
from vflowopt_mistral3.family import Mistral3

PAD, IMAGE, BREAK, END, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 5, 64
PATCH, MERGE, LONGEST = 6, 2, 84


def tiny_mistral3(attention):
    """A random model; weights are scaled up so that attention is far from uniform."""
    torch.manual_seed(0)
    vision = PixtralVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, patch_size=PATCH
    )
    text = MistralConfig(
        hidden_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        sliding_window=None,
        pad_token_id=PAD,
    )
    config = Mistral3Config(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
    model = Mistral3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(12.0)
            elif "embed" not in name and parameter.ndim == 2:
                parameter.mul_(3.0)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def image_processor():
    """Upstream's own; images become multiples of a visual token, as upstream's processor asks of it."""
    side = PATCH * MERGE
    return PixtralImageProcessorPil(size={"longest_edge": LONGEST}, patch_size={"height": side, "width": side})


def prompt(model, modality, unit, placeholder):
    """[IMG] ... [IMG] [IMG_BREAK] for each row; [IMG_END] after the last one."""
    _, rows, columns = unit.layout.position.max(axis=0) + 1
    ids = [*[placeholder] * columns, BREAK] * rows
    return [*ids[:-1], END]


CASE = Case(
    family=Mistral3(),
    model=tiny_mistral3,
    image_processor=image_processor,
    image_sizes=((48, 48), (24, 96), (100, 40), (150, 170)),  # square, wide, tall, larger than the longest edge
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
)


@conformance(CASE)
def test_mistral3(check):
    check()
