"""Model types that can be told something about, though nothing that is installed claims them."""

OFFICIAL_ADAPTERS = {
    "gemma3": "vflowopt-hf",
    "idefics3": "vflowopt-hf",
    "internvl": "vflowopt-hf",
    "llava": "vflowopt-hf",
    "llava_next": "vflowopt-hf",
    "llava_next_video": "vflowopt-hf",
    "llava_onevision": "vflowopt-hf",
    "smolvlm": "vflowopt-hf",
    "qwen2_vl": "vflowopt-qwen",
    "qwen2_5_vl": "vflowopt-qwen",
    "qwen3_vl": "vflowopt-qwen",
    "qwen3_vl_moe": "vflowopt-qwen",
    "qwen3_5": "vflowopt-qwen",
    "qwen3_5_moe": "vflowopt-qwen",
}
"""Which package of this project to install for a model type."""

UNSUPPORTED = {
    "mllama": "its decoder reads images by cross-attention, so that no rows of it stand for visual tokens",
}
"""Why a model type has no adapter and will have none soon."""
