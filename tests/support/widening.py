"""Reference models with wider decoder heads and the same outputs: vLLM's attention on CPUs has no heads of size 40.

The hidden size is doubled by zeros. In a head of twice the size d, rotary pair j becomes pair 2 j, which turns at the
same angle: theta^(-2 j / d). What is scaled by 1 / sqrt(d), or divided by the root of a mean over the hidden size, is
scaled back.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TOWERS = ("visual.", "vision_tower.")


def widen(source: Path, target: Path) -> Path:
    """Write a wider copy of a checkpoint of a Qwen2-VL or LLaVA model, in float32; returns its directory."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights = load_file(source / "model.safetensors")
    wider = {_on_the_hub(name): _widened(name, value.float(), config["text_config"]) for name, value in weights.items()}
    save_file(
        {name: value.contiguous() for name, value in wider.items()}, target / "model.safetensors", {"format": "pt"}
    )
    (target / "config.json").write_text(json.dumps(_wider_config(config)), encoding="utf-8")
    return target


def _wider_config(config: dict) -> dict:
    text = dict(config["text_config"])
    text |= {"hidden_size": 2 * text["hidden_size"], "rms_norm_eps": text["rms_norm_eps"] / 2, "dtype": "float32"}
    if "head_dim" in text:
        text["head_dim"] *= 2
    rotary = dict(text["rope_parameters"])
    if "mrope_section" in rotary:
        rotary["mrope_section"] = [2 * pairs for pairs in rotary["mrope_section"]]
    wider = config | {"text_config": text | {"rope_parameters": rotary}, "dtype": "float32"}
    if config["model_type"] == "qwen2_vl":  # whose merger is part of the tower
        wider["vision_config"] = config["vision_config"] | {"hidden_size": text["hidden_size"]}
    return wider


def _widened(name: str, value: Tensor, text: Mapping) -> Tensor:
    """One parameter, which is told by the end of its name."""
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    size = text["hidden_size"] // heads

    def out(value: Tensor) -> Tensor:
        return _padded(value, 0)

    def into(value: Tensor) -> Tensor:
        return _padded(value, 1) if value.ndim > 1 else value

    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "q_proj": lambda value: into(math.sqrt(2) * _spread(value, heads, size)),
        "k_proj": lambda value: into(_spread(value, groups, size)),
        "v_proj": lambda value: into(_spread(value, groups, size)),
        "o_proj": lambda value: out(_spread(value.T, heads, size).T if value.ndim > 1 else value),
        "gate_proj": into,
        "up_proj": into,
        "down_proj": out,
        "layernorm": lambda value: out(value / math.sqrt(2)),
        "norm": lambda value: out(value / math.sqrt(2)),
        "embed_tokens": into,
    }
    # Between the projectors' layers stands an activation that keeps zeros.
    joints = {"visual.merger.mlp.2": out, "multi_modal_projector.linear_1": out, "image_newline": out}
    joints["multi_modal_projector.linear_2"] = lambda value: out(into(value))
    for part, rule in joints.items():
        if name.startswith(part):
            return rule(value)
    if name.startswith(TOWERS):
        return value
    kind = name.removesuffix(".weight").removesuffix(".bias")
    return next(rule for ending, rule in rules.items() if kind.endswith(ending))(value)


def _padded(value: Tensor, dimension: int) -> Tensor:
    """Zeros behind, as many as there is."""
    return torch.cat([value, torch.zeros_like(value)], dim=dimension)


def _spread(value: Tensor, heads: int, size: int) -> Tensor:
    """[heads * size, ...] -> [heads * 2 size, ...], with each rotary pair where it turns at the same angle."""
    half = 2 * torch.arange(size // 2)
    wide = value.new_zeros(heads, 2 * size, *value.shape[1:])
    wide[:, torch.cat([half, size + half])] = value.unflatten(0, (heads, size))
    return wide.flatten(0, 1)


def _on_the_hub(name: str) -> str:
    """Checkpoints on the hub have one more level, which vLLM expects and transformers 5 leaves out."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")
