"""The whole Omni model is refused with the name of the part that can be pruned."""

import pytest
from transformers import Qwen2_5OmniConfig, Qwen3OmniMoeConfig

from support.cases import qwen2_5_omni, qwen3_omni
from vflowopt.errors import UnsupportedModelError
from vflowopt.plugins import find_adapter, load_adapter


@pytest.mark.parametrize(
    ("case", "whole", "name"),
    [(qwen2_5_omni.CASE, Qwen2_5OmniConfig, "qwen2.5-omni"), (qwen3_omni.CASE, Qwen3OmniMoeConfig, "qwen3-omni")],
)
def test_the_whole_model_names_its_thinker(case, whole, name):
    thinker = case.model("sdpa")
    assert find_adapter(thinker).name == name
    with pytest.raises(UnsupportedModelError, match=rf"thinker \({thinker.config.model_type}\): model\.thinker"):
        load_adapter(whole.model_type)
