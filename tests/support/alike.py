"""Prompts for recordings: the same shapes with other numbers, and the same picture with other texts."""

import torch


def other_numbers(inputs, seed):
    """Inputs of the same shapes with other pixels; tokens, masks and sizes stay."""
    generator = torch.Generator().manual_seed(seed)

    def other(value):
        if not value.is_floating_point():
            return value.clone()
        return (torch.rand(value.shape, generator=generator) * 2 - 1).to(value.device, value.dtype)

    return {name: other(value) for name, value in inputs.items()}


def asking(inputs, placeholders, text):
    """The same prompts with so many tokens after the last visual one: their last three in turn, or the first of them.

    Args:
        inputs: of prompts without padding that end in three tokens of text at least.
        placeholders: token id of each modality.
        text: tokens wanted.
    """
    ids = inputs["input_ids"]
    visual = torch.isin(ids, torch.tensor(list(placeholders.values()))).any(dim=0).nonzero()
    end, own = int(visual[-1]) + 1, ids.shape[1]
    columns = torch.arange(end + text)
    columns = torch.where(columns < own, columns, own - 3 + (columns - own) % 3)
    return {name: value[:, columns] if value.shape == ids.shape else value for name, value in inputs.items()}
