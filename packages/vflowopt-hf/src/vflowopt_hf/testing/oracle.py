"""The oracle of staged pruning: upstream's own forward over the full length, in which masks hide what was pruned.

Independent of the runtime: no cache, no shortened sequence, no changed position. Given the plans, hooks on the decoder
layers hide the keys of pruned tokens from their stage on, add the bias of retained ones to the mask, and write the
weighted mean of its members over each anchor before the first stage, or before every stage that merges. In recurrent
layers, tokens that are pruned or padding have never been there.
"""

import types
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vflowopt import PruningPlan
from vflowopt.arrays import to_numpy
from vflowopt.testing import fail
from vflowopt_hf.decoder.layer_kinds import has_keys, is_recurrent, keys_of
from vflowopt_hf.hooks.installing import inserted
from vflowopt_hf.testing.batches import Batch, PlacedMedia, with_extra_inputs
from vflowopt_hf.testing.recurrent import mixer_of, with_present_tokens
from vflowopt_hf.testing.subject import Subject

DEEPSTACK = "deepstack_visual_embeds"


@dataclass(frozen=True, eq=False)
class Oracle:
    """What must come out, for given plans.

    Attributes:
        subject: whose model.
        batch: the prompts.
        plans: one host plan for every image and video of the batch, in prompt order; ``None`` if nothing is pruned.
    """

    subject: Subject
    batch: Batch
    plans: Sequence[PruningPlan] | None

    def logits(self, sequences: Tensor) -> Tensor:
        """Logits [batch, positions, vocabulary] of prompts and what follows them; of pruned tokens, garbage.

        Args:
            sequences: int64 [batch, positions], the batch's prompts continued by text.
        """
        model, inputs = self.subject.model, self.batch.inputs
        more = sequences.shape[1] - inputs["input_ids"].shape[1]
        mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"].new_ones(len(sequences), more)], dim=1)
        longer = with_extra_inputs(
            self.subject.case,
            model,
            {**self.batch.pixels, "input_ids": sequences, "attention_mask": mask},
            inputs["input_ids"].shape[1],
        )
        # Upstream's own positions, as generate makes them for the whole text at once.
        longer["position_ids"] = model._prepare_position_ids_for_generation(sequences, dict(longer))
        decoder = self.subject.family.decoder(model)
        layers: list[nn.Module] = list(decoder.layers)  # type: ignore[arg-type]
        with ExitStack() as hooks, torch.no_grad():
            handles = [decoder.register_forward_pre_hook(self._merge_deepstack, with_kwargs=True)]
            handles += [
                layer.register_forward_pre_hook(_LayerHook(self, index), with_kwargs=True)
                for index, layer in enumerate(layers)
            ]
            for handle in handles:
                hooks.callback(handle.remove)
            for index, layer in enumerate(layers):
                if is_recurrent(decoder.config, index):
                    module, mixer = mixer_of(layer, self.subject.case.recurrent)
                    present = mask.bool() & ~self.hidden_keys(index, (len(mask), mask.shape[1]))
                    forward = types.MethodType(with_present_tokens(mixer, present), module)
                    hooks.enter_context(inserted(vars(module), "forward", forward))
            logits: Tensor = model(**longer, use_cache=False).logits
        return logits

    def hidden_keys(self, layer: int, shape: tuple[int, int]) -> Tensor:
        """Which positions are pruned in a layer: bool [batch, positions]."""
        hidden = torch.zeros(shape, dtype=torch.bool)
        for placed, plan in self._placed():
            started = [stage for stage, boundary in enumerate(plan.boundaries) if boundary <= layer]
            if started:
                hidden[placed.sample, placed.rows] = True
                hidden[placed.sample, placed.rows[to_numpy(plan.kept[started[-1]])]] = False
        return hidden

    def key_bias(self, layer: int, shape: tuple[int, int]) -> Tensor | None:
        """What a layer adds to the attention logits of keys: [batch, positions]; ``None`` if nothing."""
        bias = torch.zeros(shape)
        for placed, plan in self._placed():
            started = [stage for stage, boundary in enumerate(plan.boundaries) if boundary <= layer]
            if started and plan.bias:
                rows = placed.rows[to_numpy(plan.kept[started[-1]])]
                bias[placed.sample, rows] = torch.from_numpy(to_numpy(plan.bias[started[-1]]))
        return bias if any(plan.bias for _, plan in self._placed()) else None

    def merged(self, hidden: Tensor, layers: range) -> Tensor:
        """Rows of [batch, positions, features], each anchor's the weighted mean of its members, in float64.

        Args:
            hidden: what to merge.
            layers: decoder layers; what is merged before each of them is.
        """
        result = hidden.clone()
        for placed, plan in self._placed():
            for stage, boundary in enumerate(plan.boundaries):
                merge = plan.merge_at(stage) if boundary in layers else None
                if merge is not None:
                    before = result[placed.sample, placed.rows].double().numpy()
                    for token in to_numpy(plan.kept[stage]):
                        members = np.flatnonzero(to_numpy(merge.anchor) == token)
                        mean = sum(float(merge.weight[member]) * before[member] for member in members)
                        result[placed.sample, placed.rows[token]] = torch.from_numpy(mean).to(hidden.dtype)
        return result

    def _placed(self) -> list[tuple[PlacedMedia, PruningPlan]]:
        return [] if self.plans is None else list(zip(self.batch.placed, self.plans, strict=True))

    def _merge_deepstack(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What upstream adds to visual tokens after a layer is merged like the embeddings, if the layer is pruned."""
        features, rows = kwargs.get(DEEPSTACK), kwargs.get("visual_pos_masks")
        if features is None or rows is None:
            return None
        changed = []
        for layer, values in enumerate(features):
            full = values.new_zeros(*rows.shape, values.shape[-1])
            full[rows] = values
            changed.append(self.merged(full, range(layer + 1))[rows])
        return args, kwargs | {DEEPSTACK: changed}


class _LayerHook:
    """Pre-hook of one decoder layer."""

    def __init__(self, oracle: Oracle, index: int) -> None:
        self._oracle, self._index = oracle, index

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inside = dict(kwargs)
        hidden: Tensor = args[0] if args else inside.pop("hidden_states")
        if "attention_mask" not in inside:
            fail(
                f"upstream passes no attention_mask= to {type(module).__name__}: the oracle cannot hide tokens from it"
            )
        batch, positions, _ = hidden.shape
        subject = self._oracle.subject
        config: Any = subject.family.decoder(subject.model).config
        if has_keys(config, self._index):
            keys = keys_of(config, self._index)  # they are those that the layer stored which had them first
            pruned = self._oracle.hidden_keys(keys, (batch, positions))
            inside["attention_mask"] = _without(inside["attention_mask"], pruned)
            bias = self._oracle.key_bias(keys, (batch, positions))
            if bias is not None:
                inside["attention_mask"] = _with_bias(inside["attention_mask"], bias)
        others = (self._merged_rows(value, (batch, positions)) for value in args[1:])
        return (self._oracle.merged(hidden, range(self._index, self._index + 1)), *others), inside

    def _merged_rows(self, value: Any, shape: tuple[int, int]) -> Any:
        """What else a layer takes of every token is merged like the embeddings, at every depth."""
        if not isinstance(value, Tensor) or value.ndim != 3 or value.shape[:2] != shape:
            return value
        return self._oracle.merged(value, range(self._index + 1))


def _without(mask: Tensor | None, pruned: Tensor) -> Tensor:
    """Upstream's mask with columns hidden; the diagonal stays, so that pruned rows see something."""
    positions = pruned.shape[1]
    if mask is None:  # plain causal attention
        mask = torch.ones(1, 1, positions, positions, dtype=torch.bool).tril()
    hide = pruned[:, None, None, :] & ~torch.eye(positions, dtype=torch.bool)
    if mask.dtype == torch.bool:
        return mask & ~hide
    return torch.where(hide, torch.finfo(mask.dtype).min, mask)


def _with_bias(mask: Tensor, bias: Tensor) -> Tensor:
    """A mask of numbers, the bias of each column added where it is seen."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    return torch.where(mask < 0, mask, mask + bias[:, None, None, :])
