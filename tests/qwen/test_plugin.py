"""How vflowopt finds the adapter, and how the command line makes inputs for it."""

import subprocess
import sys

import pytest
import torch

from support.cases import qwen2_5_vl, qwen3_5, qwen3_vl, qwen3_vl_moe
from support.tiny import random_image
from support.tiny_qwen import IMAGE, LAYERS, image_processor, tiny_qwen2_vl
from vflowopt import Strategy, prune
from vflowopt.discovery.known_models import OFFICIAL_ADAPTERS
from vflowopt.errors import UnsupportedModelError
from vflowopt.plugins import find_adapter, installed, load_adapter
from vflowopt_hf.checkpoint.processing import ImageTextProcessor
from vflowopt_qwen import adapters
from vflowopt_qwen.adapters import qwen2_vl


def test_the_adapter_is_found_by_model_type():
    assert find_adapter(tiny_qwen2_vl()) is qwen2_vl
    (entry,) = [entry for entry in installed().adapters if entry.descriptor.name == "qwen2-vl"]
    assert entry.distribution == OFFICIAL_ADAPTERS["qwen2_vl"] == "vflowopt-qwen"


@pytest.mark.parametrize(
    ("case", "adapter"),
    [
        (qwen2_5_vl.CASE, adapters.qwen2_5_vl),
        (qwen3_vl.CASE, adapters.qwen3_vl),
        (qwen3_vl_moe.CASE, adapters.qwen3_vl),
        (qwen3_5.CASE, adapters.qwen3_5),
        (qwen3_5.SIBLINGS[0], adapters.qwen3_5),
    ],
)
def test_successors_are_found_by_model_type(case, adapter):
    model = case.model("sdpa")
    assert find_adapter(model) is adapter
    assert OFFICIAL_ADAPTERS[model.config.model_type] == "vflowopt-qwen"


def test_decoders_without_visual_rows_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"'mllama' cannot be pruned: .* cross-attention"):
        load_adapter("mllama")


def test_every_family_of_the_project_is_named_with_its_package():
    """So that someone without the package is told what to install."""
    claimed = {
        kind: entry.distribution
        for entry in installed().adapters
        if entry.distribution in ("vflowopt-hf", "vflowopt-qwen")
        for kind in entry.descriptor.model_types
    }
    assert claimed == OFFICIAL_ADAPTERS


def test_the_plugin_imports_no_torch():
    code = "import sys, vflowopt_qwen.plugin as p; p.vflowopt_adapters(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Words:
    """A tokenizer of the least kind: numbers are tokens."""

    def __call__(self, text):
        return {"input_ids": [int(word) for word in text.split()]}


def test_inputs_are_made_without_upstreams_processor():
    """Where torchvision is missing: placeholders are expanded and marked as upstream's processor does."""
    model = tiny_qwen2_vl()
    processor = ImageTextProcessor(qwen2_vl.family, model, image_processor(), Words())
    images = [random_image(24, 36), random_image(48, 36)]
    inputs = processor(images=images, text="7 1 8 1 9 10")
    assert inputs["input_ids"].tolist() == [[7, *[IMAGE] * 6, 8, *[IMAGE] * 12, 9, 10]]
    assert inputs["mm_token_type_ids"].tolist() == [[0, *[1] * 6, 0, *[1] * 12, 0, 0]]
    strategy = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5, 1.0, 1.0))
    with prune(model, strategy, processor=processor) as pruning, torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        assert [unit.counts[0] for unit in pruning.report.units] == [3, 6]
