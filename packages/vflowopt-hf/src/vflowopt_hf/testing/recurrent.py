"""Recurrent decoder layers in float64, token by token: what must come out where some tokens have never been there.

Each is written from its equations, without upstream's kernels, masks or caches. ``Case.recurrent`` names those that a
tiny model has.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from vflowopt.testing import fail

Mixer: TypeAlias = Callable[[Any, Tensor], Tensor]
"""(mixer module, float64 [tokens, features]) -> float64 [tokens, features]."""


def gated_delta_net(mixer: Any, hidden: Tensor) -> Tensor:
    """Gated DeltaNet (arXiv 2412.06464) behind a short convolution, as in Qwen3-Next and Qwen3.5."""
    keys, values, groups = mixer.key_dim, mixer.value_dim, mixer.num_v_heads // mixer.num_k_heads
    mixed = functional.silu(_convolved(mixer.conv1d, _linear(mixer.in_proj_qkv, hidden)))
    query, key, value = mixed.split([keys, keys, values], dim=-1)
    query, key = (_normalised(part.unflatten(-1, (mixer.num_k_heads, -1))) for part in (query, key))
    query, key = (part.repeat_interleave(groups, dim=1) for part in (query * mixer.head_k_dim**-0.5, key))
    value = value.unflatten(-1, (mixer.num_v_heads, -1))
    written = _linear(mixer.in_proj_b, hidden).sigmoid()
    step = functional.softplus(_linear(mixer.in_proj_a, hidden) + mixer.dt_bias.double())
    decay = (-mixer.A_log.double().exp() * step).exp()
    state = hidden.new_zeros(mixer.num_v_heads, mixer.head_k_dim, mixer.head_v_dim)
    read = []
    for token in range(len(hidden)):
        state = state * decay[token, :, None, None]
        known = torch.einsum("hkv,hk->hv", state, key[token])
        state = state + torch.einsum("hk,hv->hkv", key[token], (value[token] - known) * written[token, :, None])
        read.append(torch.einsum("hkv,hk->hv", state, query[token]))
    gate = _linear(mixer.in_proj_z, hidden).unflatten(-1, (mixer.num_v_heads, -1))
    normed = mixer.norm(torch.stack(read).float(), gate.float()).double() if read else gate
    return _linear(mixer.out_proj, normed.flatten(1))


def mamba2(mixer: Any, hidden: Tensor) -> Tensor:
    """Mamba 2 (arXiv 2405.21060), as in Nemotron-H."""
    inner, heads, groups = mixer.intermediate_size, mixer.num_heads, mixer.n_groups
    gate, mixed, step = _linear(mixer.in_proj, hidden).split([inner, mixer.conv_dim, heads], dim=-1)
    mixed = functional.silu(_convolved(mixer.conv1d, mixed))
    value, written, asked = mixed.split([inner, *[groups * mixer.ssm_state_size] * 2], dim=-1)
    value = value.unflatten(-1, (heads, -1))
    written, asked = (
        part.unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, dim=1) for part in (written, asked)
    )
    step = functional.softplus(step + mixer.dt_bias.double())
    decay = (-mixer.A_log.double().exp() * step).exp()
    state = hidden.new_zeros(heads, value.shape[-1], mixer.ssm_state_size)
    read = []
    for token in range(len(hidden)):
        added = torch.einsum("h,hv,hk->hvk", step[token], value[token], written[token])
        state = state * decay[token, :, None, None] + added
        read.append(torch.einsum("hvk,hk->hv", state, asked[token]) + mixer.D.double()[:, None] * value[token])
    scanned = torch.stack(read).flatten(1) if read else value.flatten(1)
    return _linear(mixer.out_proj, mixer.norm(scanned.float(), gate.float()).double())


def short_convolution(mixer: Any, hidden: Tensor) -> Tensor:
    """The gated short convolution of LFM2."""
    before, after, value = _linear(mixer.in_proj, hidden).chunk(3, dim=-1)
    return _linear(mixer.out_proj, after * _convolved(mixer.conv, before * value))


def _linear(module: Any, hidden: Tensor) -> Tensor:
    bias = None if module.bias is None else module.bias.double()
    return functional.linear(hidden, module.weight.double(), bias)


def _convolved(module: Any, hidden: Tensor) -> Tensor:
    """Each channel's weighted sum over the last tokens, the own one included; there is nothing before the first."""
    weight = module.weight.double()[:, 0]  # [channels, width], the token itself last
    width = weight.shape[1]
    result = torch.zeros_like(hidden) if module.bias is None else module.bias.double().expand_as(hidden).clone()
    for token in range(len(hidden)):
        window = hidden[max(0, token - width + 1) : token + 1]
        result[token] += (window * weight[:, width - len(window) :].T).sum(dim=0)
    return result


def _normalised(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt((vectors * vectors).sum(dim=-1, keepdim=True) + 1e-6)


def mixer_of(layer: nn.Module, known: Mapping[str, Mixer]) -> tuple[nn.Module, Mixer]:
    """The recurrent mixer of a decoder layer and what it must compute."""
    modules = dict(layer.named_children())
    found = next((name for name in known if name in modules), None)
    if found is None:
        fail(
            f"{type(layer).__name__} is recurrent, but Case.recurrent does not say by what its tokens are mixed: name "
            f"one of its modules ({', '.join(modules)}) and a reference of vflowopt_hf.testing.recurrent"
        )
    return modules[found], known[found]


def with_present_tokens(mixer: Mixer, present: Tensor) -> Callable[..., Tensor]:
    """A mixer's forward in which some tokens have never been there.

    Args:
        mixer: the reference.
        present: bool [batch, positions].

    Returns:
        (module, hidden_states [batch, positions, features]) -> the same shape, 0 where a token is absent.
    """

    def forward(module: nn.Module, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        result = torch.zeros_like(hidden_states)
        for sample, own in enumerate(present):
            result[sample, own] = mixer(module, hidden_states[sample, own].double()).to(result.dtype)
        return result

    return forward
