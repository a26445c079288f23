"""One unpruned forward of the whole model, of which everything is kept that parts are measured on."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from vflowopt.adapter import Inputs
from vflowopt.errors import InputError
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prefill import Prefill, place_units
from vflowopt_hf.pruning.session import refuse_nesting
from vflowopt_hf.upstream import with_cache
from vflowopt_hf.vision.encoders import tap_encoders

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments with which a module was called."""


@dataclass(frozen=True, eq=False)
class Observed:
    """What one forward was.

    Attributes:
        tower: the vision tower.
        tower_call: how the model called it.
        call: keyword arguments of the text decoder: embeddings (vision features in place), mask, positions.
        layer_calls: keyword arguments of each decoder layer.
        prefill: the units and where they are.
    """

    tower: nn.Module
    tower_call: Call
    call: dict[str, Any]
    layer_calls: tuple[dict[str, Any], ...]
    prefill: Prefill

    @property
    def queries(self) -> int:
        """Rows of the forward."""
        return int(self.call["inputs_embeds"].shape[1])

    def decoder_call(self, decoder: Any) -> dict[str, Any]:
        """Arguments of a prefill of the decoder, or of one that mimics it, with a fresh cache."""
        return with_cache(decoder, self.call, DynamicCache(config=decoder.config))

    def encode(self) -> Any:
        """Run the vision tower."""
        args, kwargs = self.tower_call
        return self.tower(*args, **kwargs)


def observe(family: Family, model: Any, inputs: Inputs, statistics: PixelStatistics) -> Observed:
    """Run the model once, unpruned.

    Args:
        family: the model's family.
        model: the model; not changed.
        inputs: processor output, any batch size.
        statistics: pixel normalisation to invert for patch entropy.

    Raises:
        InputError: there is no image.
        PruningStateError: the model is being pruned.
    """
    refuse_nesting(family, model)
    tower: nn.Module = model.get_encoder(modality="image")
    decoder = family.decoder(model)
    seen: dict[nn.Module, list[Call]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.setdefault(module, []).append((args, dict(kwargs)))

    layers: list[nn.Module] = list(decoder.layers)  # type: ignore[arg-type]
    with ExitStack() as stack:
        for module in (tower, decoder, *layers):
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        tap = stack.enter_context(tap_encoders(family, model))
        stack.enter_context(torch.no_grad())
        mark = tap.mark()
        model(**{**inputs, "use_cache": False, "logits_to_keep": 1})
        encodings = tap.since(mark)
        if tower not in seen or not encodings:
            raise InputError("the input has no image, so there is nothing to benchmark")
        call = seen[decoder][0][1]
        placeholders = family.placeholder_ids(model)
        mask, embeddings = inputs.get("attention_mask"), call["inputs_embeds"]
        prefill = place_units(placeholders, encodings, inputs["input_ids"], mask, statistics, embeddings)
    layer_calls = tuple(seen[layer][0][1] for layer in layers)
    return Observed(tower, seen[tower][0], call, layer_calls, prefill)
