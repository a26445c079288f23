"""Full-size models with random weights, made where and as they are to be used: no copy on the way, no long draw."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from vflowopt.errors import InputError
from vflowopt_hf.measure.devices import find_device, find_dtype

_DRAWN = (1 << 20) + 7
"""Numbers that are drawn; all weights repeat them. Not a multiple of any width, so that rows of a matrix differ."""


def random_model(kind: type[PreTrainedModel], config: Any, device: str | None = None, dtype: str = "auto") -> Any:
    """A model in evaluation mode whose every weight is random; the same on every call.

    Buffers, such as the frequencies of rotary positions, are what the model's own constructor makes them.

    Args:
        kind: the model's class.
        config: its configuration.
        device: where weights are made; by default CUDA if there is one, else the CPU. ``"meta"`` makes none.
        dtype: name of their torch dtype; ``"auto"`` is float32 on the CPU, bfloat16 elsewhere.

    Raises:
        InputError: no such dtype or device, or the weights do not fit into the memory of the machine.
    """
    place = torch.device("meta") if device == "meta" else find_device(device)
    precision = find_dtype(dtype, place, torch.bfloat16)
    if place.type == "cpu":
        _require_memory(kind, config, precision)
    model = _allocated(kind, config, place, precision)
    if place.type != "meta":
        _fill(model)
    return model.eval()


def parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in model.parameters())


def _allocated(kind: type[PreTrainedModel], config: Any, place: torch.device, dtype: torch.dtype) -> Any:
    with place, no_init_weights():
        model: Any = kind._from_config(config, dtype=dtype)
    model.tie_weights()
    return model


def _require_memory(kind: type[PreTrainedModel], config: Any, dtype: torch.dtype) -> None:
    needed = parameters(_allocated(kind, config, torch.device("meta"), dtype)) * dtype.itemsize
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"the weights take {needed / 2**30:.1f} GiB as {str(dtype).removeprefix('torch.')}, and this machine has "
            f"{there / 2**30:.1f} GiB of memory; use --device cuda, or --dtype bfloat16"
        )


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    """Norms are the identity, biases zero, all else normal with the usual deviation."""
    drawn: Tensor | None = None
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 1 and name == "bias":
                weight.zero_()
            elif weight.ndim == 1 and "Norm" in type(module).__name__:
                weight.fill_(1)
            else:
                if drawn is None:
                    generator = torch.Generator(weight.device).manual_seed(0)
                    drawn = 0.02 * torch.randn(_DRAWN, generator=generator, device=weight.device)
                    drawn = drawn.to(weight.dtype)
                _repeat(drawn, weight)


def _repeat(drawn: Tensor, weight: Tensor) -> None:
    """Write ``drawn`` into a contiguous ``weight`` again and again."""
    flat, length = weight.view(-1), len(drawn)
    whole = flat.numel() // length
    flat[: whole * length].view(whole, length).copy_(drawn.expand(whole, -1))
    flat[whole * length :].copy_(drawn[: flat.numel() - whole * length])
