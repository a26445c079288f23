"""The models that vLLM serves on a CPU are the reference models."""

import pytest
import torch

from support.widening import widen
from vflowopt_reference import held_out, load_model, load_processor, path


@pytest.mark.parametrize("name", ["reference", "reference-qwen2vl", "reference-next"])
def test_a_wider_model_says_the_same(name, tmp_path):
    processor = load_processor(name)
    example = held_out(1, model=name)[0]
    inputs = processor(images=example.image, text=processor.prompt(example.question))
    original, wider = load_model(name), load_model(widen(path(name), tmp_path / name))
    head = wider.config.text_config.hidden_size // wider.config.text_config.num_attention_heads
    assert head == 80
    with torch.no_grad():
        torch.testing.assert_close(wider(**inputs).logits, original(**inputs).logits, rtol=1e-4, atol=1e-4)
