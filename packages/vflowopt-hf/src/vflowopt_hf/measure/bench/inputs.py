"""Inputs of a sweep: the same prompt with more text, and more of the same samples."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vflowopt.adapter import Inputs
from vflowopt.errors import InputError
from vflowopt_hf.decoder.padding import without_padding


def single(inputs: Inputs) -> dict[str, Any]:
    """Processor output of one sample, without padding.

    Raises:
        InputError: no token ids, a batch size other than 1, or padding between tokens.
    """
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[0] != 1:
        shape = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"a benchmark takes processor output with input_ids [1, queries], not {shape}")
    return without_padding(inputs)


def text_length(inputs: Inputs, placeholders: Mapping[str, int]) -> int:
    """Tokens of a prompt that are not visual.

    Args:
        inputs: see :func:`single`.
        placeholders: token id of each modality.
    """
    ids = inputs["input_ids"]
    visual = sum(int((ids == token).sum()) for token in placeholders.values())
    return int(ids.shape[1]) - visual


def lengthened(inputs: Inputs, placeholders: Mapping[str, int], text_tokens: int) -> dict[str, Any]:
    """The prompt with so many text tokens: its last one is repeated.

    Args:
        inputs: see :func:`single`; it ends in text.
        placeholders: token id of each modality.
        text_tokens: text tokens wanted.

    Raises:
        InputError: the prompt has more text already, or ends in a visual token.
    """
    own = text_length(inputs, placeholders)
    if own > text_tokens:
        raise InputError(f"the prompt has {own} text tokens already; it cannot be given {text_tokens}, only more")
    ids = inputs["input_ids"]
    if int(ids[0, -1]) in placeholders.values():
        raise InputError("the prompt ends in a visual token, so it cannot be lengthened by repeating its last token")
    return {
        # Whatever goes along the tokens (ids, mask, token types) has the shape of the ids.
        name: torch.cat([value, value[:, -1:].expand(-1, text_tokens - own)], dim=1)
        if isinstance(value, Tensor) and value.shape == ids.shape
        else value
        for name, value in inputs.items()
    }


def repeated(inputs: Inputs, batch: int) -> dict[str, Any]:
    """A batch of equal samples: processors put samples, images and patches one after the other along the first axis."""
    return {
        name: torch.cat([value] * batch) if isinstance(value, Tensor) and value.ndim else value
        for name, value in inputs.items()
    }
