"""Images of up to three million pixels with Qwen2-VL's real patches of 14 pixels, from upstream's image processor."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from support.tiny import random_image
from support.tiny_qwen import EOS, IMAGE, PAD, VIDEO, VOCABULARY, ready
from vflowopt import Strategy, prune
from vflowopt_qwen.qwen2_vl import Qwen2VL

PIXELS = 3_000_000
TOKEN = 28  # side of a visual token: 2 x 2 patches of 14 pixels


def processor(most=PIXELS):
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * TOKEN**2, "longest_edge": most})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 16, "mlp_ratio": 1, "num_heads": 1},
        text_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "intermediate_size": 16,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation="sdpa",
    )
    return ready(Qwen2VLForConditionalGeneration(config))


def prompts(counts):
    """A batch, one list of images' token counts per sample, padded on the left."""
    rows = [[7, *(token for count in sample for token in [*[IMAGE] * count, 8]), 9] for sample in counts]
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "mm_token_type_ids": (ids == IMAGE).long()}


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [
        ((1500, 2000), PIXELS, (53, 71)),  # 54 x 71 tokens would be more than three million pixels
        ((2600, 1300), PIXELS, (87, 43)),
        ((1500, 2000), 4 * PIXELS, (54, 71)),
        ((1500, 2000), 300_000, (16, 22)),
        ((600, 5000), PIXELS, (21, 179)),
        ((20, 30), PIXELS, (2, 3)),  # enlarged to the fewest pixels
    ],
    ids=str,
)
def test_bounds_on_pixels_decide_the_number_of_tokens(model, size, most, grid):
    made = processor(most)(random_image(*size), return_tensors="pt")
    (unit,) = Qwen2VL().units(model, "image", made)
    assert TOKEN**2 * grid[0] * grid[1] <= most
    assert unit.layout.tokens == grid[0] * grid[1] == len(made["pixel_values"]) // 4
    assert np.array_equal(unit.layout.position, np.indices((1, *grid)).reshape(3, -1).T)
    assert not unit.layout.structural.any()


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return result


def test_three_million_pixels_beside_smaller_images(model):
    """Planned and pruned in one ragged batch; nowhere is there an attention matrix over the large image's patches."""
    sizes = [[(1500, 2000)], [(84, 140), (300, 200)]]
    counts = [[53 * 71], [3 * 5, 11 * 7]]
    made = processor()([random_image(*size) for sample in sizes for size in sample], return_tensors="pt")
    inputs = prompts(counts) | dict(made)
    strategy = Strategy.vflowopt(
        num_layers=2, stages=(0, 1), retention=(0.1, 0.5), threshold=1.5, entropy_weight=0.5, cell=4.0
    )
    with prune(model, strategy, processor=processor()) as pruning, torch.no_grad(), LargestTensor() as largest:
        logits = model(**inputs, logits_to_keep=1).logits
    assert logits.isfinite().all()
    flat = [(sample, count) for sample, own in enumerate(counts) for count in own]
    assert [(unit.sample, unit.tokens) for unit in pruning.report.units] == flat
    for plan, (_, count) in zip(pruning.plan, flat, strict=True):
        kept = [int(share * count + 0.5) for share in (0.1, 0.05)]
        assert [len(stage) for stage in plan.kept] == list(plan.counts) == kept
    patches = 4 * counts[0][0]
    assert patches == 15_052
    assert largest.elements < patches**2 / 4  # upstream's causal mask over both samples' tokens has an eighth
