"""Where a model is to run and in which precision, checked before anything is loaded or built."""

from typing import TypeVar

import torch

from vflowopt.errors import InputError

Usual = TypeVar("Usual", torch.dtype, str)


def find_device(name: str | None) -> torch.device:
    """The device of that name, or CUDA if there is one, else the CPU.

    Raises:
        InputError: there is no such device here, or it holds no numbers.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is not a device; use cpu, or cuda, cuda:1 and the like") from error
    if device.type == "meta":
        raise InputError("'meta' holds shapes without numbers, with which nothing can be answered; use cpu or cuda")
    try:
        torch.empty(1, device=device)
    except Exception as error:  # each backend says it in an exception of its own
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        raise InputError(f"there is no device {name!r} here, or it cannot be used; use {there}") from error
    return device


def find_dtype(name: str, device: torch.device, usual: Usual) -> torch.dtype | Usual:
    """The dtype of that name; ``"auto"`` is float32 on the CPU and the usual one elsewhere.

    Raises:
        InputError: there is no such dtype, or it is none of floating point.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else usual
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"{name!r} is not a dtype of models; use auto, float32, bfloat16 or float16")
    return dtype
