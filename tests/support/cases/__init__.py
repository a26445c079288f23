"""Cases of the conformance kit, a module for each kind of model that works with the installed transformers."""

import pkgutil

import pytest

from vflowopt_hf.upstream import installed

SINCE = {"gemma4_e2b": (5, 24), "molmo2": (5, 20)}
"""First release of transformers with which the model works, where it is not the oldest that is supported."""
NAMES = [found.name for found in pkgutil.iter_modules(__path__) if SINCE.get(found.name, installed()) <= installed()]

SAME_DECODER = {
    "cohere2_vision": "aya_vision",
    "fast_vlm": "llava_onevision",
    "idefics2": "mistral3",
    "idefics3": "llava_next_video",
    "internvl": "llava_onevision",
    "llava": "llava_next_video",
    "llava_next": "llava_next_video",
    "llava_next_mistral": "mistral3",
    "minicpm_v4_6": "qwen3_5",
    "ovis2": "llava_onevision",
    "perception_lm": "llava_next_video",
    "qianfan_ocr": "lighton_ocr",
    "smolvlm": "llava_next_video",
    "vipllava": "llava_next_video",
}
"""Cases whose decoder is of the class that another case's is of."""

OF_EVERY_KIND = {
    "gemma3",  # sliding windows
    "gemma4",  # keys shared by layers, inputs per layer
    "kimi_k25",  # latent attention, experts
    "llava_next_video",  # videos, separators
    "llava_onevision",
    "nemotron_h",  # state space layers
    "qwen2_vl",  # positions of three axes
    "qwen3_5",  # gated delta nets
    "qwen3_vl",  # features at several depths
}
"""Cases with one decoder of each kind that pruning tells apart."""

BY_DECODER = [pytest.param(name, marks=[pytest.mark.repeat] * (name in SAME_DECODER)) for name in NAMES]
"""All cases, for tests of what hangs on the decoder: those that repeat another's are repeats."""
