"""Samples that can run as one batch without padding: equally long, and with equal numbers of tokens at every stage."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vflowopt_hf.plans.prefill import Prefill
from vflowopt_hf.plans.rows import BatchRows
from vflowopt_hf.search.sample import Sample

BATCH_AXIS = {"inputs_embeds": 0, "attention_mask": 0, "position_ids": -2}
"""Where decoders' arguments have the batch; positions of several axes are [axes, batch, queries]."""


def batch_key(sample: Sample) -> Hashable:
    """Equal for samples that :func:`join_samples` takes; ``None`` if the sample must run alone.

    Counts of all stages follow from the units' sizes, so equal sizes mean equal counts and no filler at any stage.
    """
    arguments: list[Hashable] = []
    for name, value in sample.call.items():
        if name in BATCH_AXIS and isinstance(value, Tensor):
            if value.ndim < 2 or value.shape[BATCH_AXIS[name]] != 1:
                return None
            arguments.append((name, tuple(value.shape), value.dtype, value.device))
        elif name == "cache_position" and isinstance(value, Tensor):
            arguments.append((name, value.shape[0]))  # 0, 1, ...: nothing is cached
        elif value is None or isinstance(value, bool | int | float | str):
            arguments.append((name, value))
        else:
            return None
    return (*arguments, *(unit.context.layout.tokens for unit in sample.prefill.units))


def batches(keys: Sequence[Hashable], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of the samples of each batch; every sample is in one of them.

    Args:
        keys: of each sample, see :func:`batch_key`.
        lengths: rows of each sample.
        tokens: rows of a batch at most; a sample that has more runs alone.
    """
    open_batches: dict[Hashable, list[int]] = {}
    for index, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        if key is None or 2 * length > tokens:
            yield [index]
            continue
        batch = open_batches.setdefault(key, [])
        batch.append(index)
        if (len(batch) + 1) * length > tokens:
            yield open_batches.pop(key)
    yield from open_batches.values()


def join_samples(samples: Sequence[Sample]) -> Sample:
    """One batch of samples of the same key; a single sample stays itself. The target is that of the first."""
    if len(samples) == 1:
        return samples[0]
    call = {name: _joined(name, [sample.call[name] for sample in samples]) for name in samples[0].call}
    units = tuple(
        replace(unit, sample=number) for number, sample in enumerate(samples) for unit in sample.prefill.units
    )
    present = np.concatenate([sample.prefill.present for sample in samples])
    table = BatchRows([(unit.sample, unit.rows) for unit in units], present, call["inputs_embeds"].device)
    return Sample(call, Prefill(units, table), samples[0].target)


def _joined(name: str, values: Sequence[Any]) -> Any:
    joins = name in BATCH_AXIS and isinstance(values[0], Tensor)
    return torch.cat(list(values), dim=BATCH_AXIS[name]) if joins else values[0]


def in_batches(samples: Iterable[Sample], groups: Iterable[Sequence[int]]) -> Iterator[list[Sample]]:
    """Group samples that come in the groups' order."""
    coming = iter(samples)
    for group in groups:
        yield [next(coming) for _ in group]
