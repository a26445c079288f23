"""Qwen3.5: the visual tokens of Qwen2-VL, and a decoder that is recurrent in three layers of four."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from ..geometry import PATCH
from ..recipes import HYBRID, Phase
from ..vocabulary import IMAGE, TURN_END, TURN_START, VIDEO, VOCABULARY
from .qwen2_vl import MERGE, SLICE, Qwen2VL

_WIDTH = 160
_LAYERS = 8
"""Two of upstream's periods of four."""
_HEADS, _HEAD = 4, 40
_WINDOW = 4
_SIDE = 14
"""Of the grid of learned positions; they start at zero, and the rotary ones do the work."""


class Qwen35(Qwen2VL):
    """The tower of ``reference-qwen2vl`` and 8 layers of 160: gated delta nets, every fourth with full attention."""

    name: ClassVar[str] = "reference-qwen35"
    model_type: ClassVar[str] = "qwen3_5"
    model_class: ClassVar[Any] = Qwen3_5ForConditionalGeneration
    mean: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 0.5)
    phases: ClassVar[tuple[Phase, ...]] = HYBRID
    weights_from: ClassVar[str | None] = "reference-qwen2vl"
    decoder_from: ClassVar[str | None] = None

    def configuration(self) -> Any:
        """See the class."""
        vision = {
            "depth": 5,
            "hidden_size": _WIDTH,
            "out_hidden_size": _WIDTH,
            "intermediate_size": 3 * _WIDTH,
            "num_heads": 4,
            "hidden_act": "quick_gelu",
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": SLICE,
            "num_position_embeddings": _SIDE**2,
        }
        rope = {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [7, 7, 6],
            "mrope_interleaved": True,
            "partial_rotary_factor": 1.0,
        }
        text = {
            "head_dim": _HEAD,
            "attention_bias": True,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "linear_conv_kernel_dim": _WINDOW,
            "linear_num_key_heads": _HEADS,
            "linear_num_value_heads": _HEADS,
            "linear_key_head_dim": _HEAD,
            "linear_value_head_dim": _HEAD,
        }
        return Qwen3_5Config(
            vision_config=vision,
            text_config={**self.decoder(), **text, "num_hidden_layers": _LAYERS},
            image_token_id=VOCABULARY[IMAGE],
            video_token_id=VOCABULARY[VIDEO],
            vision_start_token_id=VOCABULARY[TURN_START],
            vision_end_token_id=VOCABULARY[TURN_END],
            tie_word_embeddings=True,
        )

    def translated(self, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of ``reference-qwen2vl`` in this form: the tower, norms and MLPs compute the same.

        Full attention does so but for its norms of queries and keys, and positions that alternate. Recurrent layers
        start from queries, keys and values, with memories of different lengths.
        """
        state = {name: _norm_from_one(name, found[_origin(name)]) for name in own if _origin(name) in found}
        state |= self._patch_embedding(found["model.visual.patch_embed.proj.weight"])
        state["model.visual.pos_embed.weight"] = torch.zeros_like(own["model.visual.pos_embed.weight"])
        for number, kind in enumerate(self.configuration().text_config.layer_types):
            layer = f"model.language_model.layers.{number}."
            attention = {name.removeprefix(layer): value for name, value in found.items() if name.startswith(layer)}
            if kind == "linear_attention":
                mixer = _recurrent(attention, own[f"{layer}linear_attn.in_proj_z.weight"])
            else:
                mixer = _gated(attention)
            state |= {layer + name: value for name, value in mixer.items()}
        return {**own, **state}

    def _patch_embedding(self, weight: Tensor) -> dict[str, Tensor]:
        """The same of pixels that are normalised otherwise."""
        mean, std, theirs, spread = (torch.tensor(one) for one in (self.mean, self.std, Qwen2VL.mean, Qwen2VL.std))
        scale, shift = std / spread, (mean - theirs) / spread
        name = "model.visual.patch_embed.proj"
        bias = (weight * shift[:, None, None, None]).sum((1, 2, 3, 4))
        return {f"{name}.weight": weight * scale[:, None, None, None], f"{name}.bias": bias}


def _gated(attention: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full attention with gates of zero: they let half through, and the output projection makes up for it."""
    state = {"self_attn.o_proj.weight": 2 * attention["self_attn.o_proj.weight"]}
    state["self_attn.o_proj.bias"] = torch.zeros(_WIDTH)
    for name in ("self_attn.q_proj.weight", "self_attn.q_proj.bias"):
        query = attention[name].unflatten(0, (_HEADS, _HEAD))
        state[name] = torch.cat([query, torch.zeros_like(query)], 1).flatten(0, 1)
    return state


def _recurrent(attention: Mapping[str, Tensor], gate: Tensor) -> dict[str, Tensor]:
    """A gated delta net with the queries, keys and values of full attention; ``gate`` is scaled up from its start."""
    query, key, value = (attention[f"self_attn.{one}_proj.weight"].unflatten(0, (-1, _HEAD)) for one in "qkv")
    heads = torch.cat([query, *(one.repeat_interleave(_HEADS // len(one), 0) for one in (key, value))])
    last = torch.zeros(heads.shape[0] * _HEAD, 1, _WINDOW)
    last[..., -1] = 1.0
    return {
        "linear_attn.in_proj_qkv.weight": heads.flatten(0, 1),
        "linear_attn.in_proj_z.weight": gate * (_WIDTH**-0.5 / gate.std()),
        "linear_attn.out_proj.weight": attention["self_attn.o_proj.weight"],
        "linear_attn.conv1d.weight": last,
        "linear_attn.A_log": torch.logspace(-3, 0, _HEADS).log(),
    }


def _origin(name: str) -> str:
    """What a parameter is called in Qwen2-VL."""
    if name.startswith("model.visual."):
        for mine, theirs in (("linear_fc", "fc"), ("merger.norm", "merger.ln_q"), ("merger.fc1", "merger.mlp.0")):
            name = name.replace(mine, theirs)
        return name.replace("merger.fc2", "merger.mlp.2")
    return name


def _norm_from_one(name: str, value: Tensor) -> Tensor:
    """The decoder's norms count their weights from one."""
    return value - 1 if "visual" not in name and name.endswith("norm.weight") else value
