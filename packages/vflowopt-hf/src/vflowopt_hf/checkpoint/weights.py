"""Whether the weights of a checkpoint are those of its ``config.json``: what is not would be random numbers."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vflowopt.errors import InputError

_REMEDY = "download the checkpoint again, or put the config.json beside the weights that it belongs to"


def check_weights(source: str | Path, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model that was loaded with other weights than its own.

    Weights of whole modules that the model lacks, such as the head of another task, are left aside as upstream does.

    Args:
        source: where it was loaded from.
        model: as it was loaded.
        info: what ``from_pretrained(..., output_loading_info=True)`` says of it.

    Raises:
        InputError: weights are missing, have another shape, or belong to a module that the model has otherwise, such
            as a further layer or a bias; says which and how many.
    """
    names = model.state_dict().keys()
    missing, shapes = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    modules = {_pattern(name) for name in names}
    quantised = getattr(model, "hf_quantizer", None) is not None  # whose scales are no weights of modules
    surplus = [] if quantised else [name for name in sorted(info["unexpected_keys"]) if _pattern(name) in modules]
    wrong = [
        f"{len(found)} {what} ({named})"
        for found, what, named in (
            (missing, f"of {len(names)} weights are missing", _few(missing)),
            (shapes, "have another shape", "; ".join(_shape(*one) for one in shapes[:1])),
            (surplus, "are of layers or parts that the model lacks", _few(surplus)),
        )
        if found
    ]
    if wrong:
        raise InputError(
            f"the weights in {str(source)!r} are not those of its config.json: {', '.join(wrong)}; {_REMEDY}"
        )


def _pattern(name: str) -> str:
    """The module of a weight, without the numbers of layers."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name.rpartition(".")[0])


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}, ..." if names else ""


def _shape(name: str, stored: Sequence[int], wanted: Sequence[int]) -> str:
    return f"{name} is {list(stored)}, not {list(wanted)}"


def check_size(source: str | Path) -> None:
    """Refuse a ``config.json`` whose model is far larger than the weights beside it, before memory is taken for it.

    Only a directory with safetensors files can be looked at, and only if its weights are not packed.

    Raises:
        InputError: it has more layers than there are tensors, or more than twice as many weights, or a negative number
            of something.
        Exception: whatever transformers raises on damaged files.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        return
    stored = [math.prod(shape) for file in files for shape in _shapes(file)]
    layers = _most_layers(source, json.loads((Path(source) / "config.json").read_text(encoding="utf-8")))
    if layers > len(stored):
        raise InputError(
            f"the config.json in {str(source)!r} describes {layers:,} layers, and its weights are {len(stored):,} "
            f"tensors: they are not of one model; {_REMEDY}"
        )
    config = AutoConfig.from_pretrained(source)
    if getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    described = sum(weight.numel() for weight in model.parameters())
    if described > 2 * sum(stored):
        raise InputError(
            f"the config.json in {str(source)!r} describes a model of {described:,} weights, and it holds "
            f"{sum(stored):,}: they are not of one model; {_REMEDY}"
        )


def _shapes(file: Path) -> Iterator[Sequence[int]]:
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            yield tensors.get_slice(name).get_shape()


def _most_layers(source: str | Path, config: Mapping[str, Any]) -> int:
    """The largest number of layers of a model and its parts.

    Raises:
        InputError: a number of layers, heads or the like is negative.
    """
    parts = (config, *(value for value in config.values() if isinstance(value, dict)))
    numbers = [(name, value) for part in parts for name, value in part.items() if isinstance(value, int)]
    for name, value in numbers:
        if name.startswith("num_") and value < 0:
            raise InputError(f"the config.json in {str(source)!r} says {name} = {value}; {_REMEDY}")
    return max((value for name, value in numbers if name in ("num_hidden_layers", "depth")), default=0)
