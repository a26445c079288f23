"""One sample of a search: its unpruned prefill, run once and kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vflowopt.adapter import Inputs
from vflowopt.errors import InputError
from vflowopt_hf.decoder.padding import without_padding
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prefill import Prefill, place_units
from vflowopt_hf.vision.class_rows import vision_depth
from vflowopt_hf.vision.encoders import tap_encoders

Change = Callable[[Tensor], Tensor]
"""Makes one tensor of another."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One unpruned prefill, kept so that every evaluation is a decoder prefill and nothing else.

    Attributes:
        call: keyword arguments with which the backbone called the text decoder: embeddings (vision features in
            place), mask, positions.
        prefill: its units and where they are.
            Their scoring contexts hold query and key of the one observed attention module.
        target: of the final-norm hidden states of the unpruned forward what is compared, [1, read, features].
    """

    call: dict[str, Any]
    prefill: Prefill
    target: Tensor

    @property
    def queries(self) -> int:
        """Rows of the unpruned forward."""
        return int(self.prefill.present.shape[1])

    @property
    def following(self) -> int:
        """Rows after the last visual token, which no pruning removes."""
        return self.queries - 1 - max(int(unit.rows[-1]) for unit in self.prefill.units)

    @property
    def tail(self) -> int:
        """The same, at least 1."""
        return max(1, self.following)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that :meth:`mapped` changes."""
        sizes: list[int] = []

        def note(tensor: Tensor) -> Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        self.mapped(note)
        return sum(sizes)

    def mapped(self, change: Change) -> "Sample":
        """The sample with its large tensors changed, for example moved: embeddings and the rest of the call, q and k.

        Each is changed once, in an order that depends on the sample's structure alone. Target and whatever scorers have
        computed and remembered are small and stay where they are.
        """
        once = _once(change)
        call = {name: _mapped(value, once) for name, value in self.call.items()}
        units = tuple(unit.mapped(once, call["inputs_embeds"]) for unit in self.prefill.units)
        return Sample(call, replace(self.prefill, units=units), self.target)

    def compact(self, target: Tensor) -> "Sample":
        """Only what evaluations read: patch entropy in place of pixels, and tensors that share no memory with others.

        Args:
            target: what is kept of the hidden states.
        """
        units = tuple(replace(unit, context=unit.context.without_pixels()) for unit in self.prefill.units)
        return Sample(self.call, replace(self.prefill, units=units), target.clone()).mapped(_own)


def observe_sample(family: Family, model: Any, index: int, inputs: Inputs, statistics: PixelStatistics) -> Sample:
    """Run one sample unpruned; the target is all its hidden states.

    Args:
        family: the model's family.
        model: the model; left as it was found.
        index: of the sample, for messages.
        inputs: processor output of batch size 1; padding at its ends is left away.
        statistics: pixel normalisation to invert for patch entropy.

    Raises:
        InputError: no processor output, another batch size, nothing visual, or padding between tokens.
    """
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
        raise InputError(f"sample {index} is not a processor output with input_ids: {type(inputs).__name__}")
    if inputs["input_ids"].shape[0] != 1:
        raise InputError(f"sample {index} has batch size {inputs['input_ids'].shape[0]}; pass samples one by one")
    try:
        inputs = without_padding(inputs)
    except InputError as error:
        raise InputError(f"sample {index}: {error}") from None
    backbone, decoder = family.backbone(model), family.decoder(model)
    calls: list[dict[str, Any]] = []
    states: list[Tensor] = []
    handles = (
        decoder.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(dict(kwargs)), with_kwargs=True),
        decoder.register_forward_hook(lambda _m, _a, output: states.append(output.last_hidden_state)),
    )
    try:
        # Which strategies will be scored is not known yet, so class attention is kept of all layers: it is small.
        with tap_encoders(family, model, vision_depth(family, model)) as tap, torch.no_grad():
            mark = tap.mark()
            backbone(**{**inputs, "use_cache": False})
            encodings = tap.since(mark)
    finally:
        for handle in handles:
            handle.remove()
    if not encodings:
        raise InputError(f"sample {index} has no image or video, so there is nothing to prune")
    placeholders, mask = family.placeholder_ids(model), inputs.get("attention_mask")
    prefill = place_units(placeholders, encodings, inputs["input_ids"], mask, statistics, calls[0]["inputs_embeds"])
    return Sample({**calls[0], "use_cache": False}, prefill, states[0])


def _once(change: Change) -> Change:
    """The same, but what occurs twice is changed once and stays one object."""
    made: dict[int, Tensor] = {}

    def of(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            made[id(tensor)] = change(tensor)
        return made[id(tensor)]

    return of


def _mapped(value: Any, change: Change) -> Any:
    """Tensors in dicts, lists and tuples changed, everything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) is dict:
        return {name: _mapped(part, change) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(part, change) for part in value)
    return value


def _own(tensor: Tensor) -> Tensor:
    """Contiguous and alone in its storage: kernels then see the same layout wherever the tensor has been meanwhile."""
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.detach() if alone else tensor.detach().clone(memory_format=torch.contiguous_format)
