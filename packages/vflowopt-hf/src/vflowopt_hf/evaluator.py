"""The search's objective (paper Eq. 8): how close pruned hidden states stay to unpruned ones."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Evaluation, Inputs
from vflowopt.errors import InputError
from vflowopt_hf.encoders import tap_encoders
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.prefill import Prefill, place_units, plan_units
from vflowopt_hf.session import num_layers, refuse_nesting
from vflowopt_hf.stage_plan import StagePlan, observed_layers
from vflowopt_hf.staged import StagedDecoder


@dataclass(frozen=True, eq=False)
class Sample:
    """One unpruned prefill, kept so that every evaluation is a decoder prefill and nothing else.

    Attributes:
        call: keyword arguments with which the backbone called the text decoder: embeddings (vision features in
            place), mask, positions.
        prefill: its units and where they are.
            Their scoring contexts hold query and key of the one observed attention module.
        target: final-norm hidden states of the unpruned forward [1, queries, features].
    """

    call: dict[str, Any]
    prefill: Prefill
    target: Tensor

    @property
    def following(self) -> int:
        """Rows after the last visual token, which no pruning removes."""
        return self.target.shape[1] - 1 - max(int(unit.rows[-1]) for unit in self.prefill.units)

    @property
    def tail(self) -> int:
        """The same, at least 1."""
        return max(1, self.following)


class HiddenStateEvaluator:
    """Scores strategies by the cosine similarity of final hidden states (:class:`vflowopt.adapter.Evaluator`).

    Vision features and unpruned targets are computed once, here. An evaluation costs one pruned decoder prefill per
    sample: no vision tower, no language-model head, no cache, no decoding.

    Args:
        family: the model's family.
        model: the model; not changed.
        samples: processor outputs of batch size 1 with at least one image or video each.
        objective: a key of :data:`OBJECTIVES`.
        statistics: pixel normalisation to invert for patch entropy.

    Raises:
        InputError: no samples, an unknown objective, or a sample without visual tokens or of another batch size.
        PruningStateError: the model is being pruned, so that targets would be too.
    """

    def __init__(
        self, family: Family, model: Any, samples: Iterable[Inputs], objective: str, statistics: PixelStatistics
    ) -> None:
        if objective not in OBJECTIVES:
            raise InputError(f"unknown objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
        refuse_nesting(family, model)
        self._family, self._model = family, model
        self._compare = OBJECTIVES[objective]
        self.num_layers = num_layers(family, model)
        digest = hashlib.sha256(_model_identity(model).encode())
        self.samples = []
        for index, inputs in enumerate(samples):
            self.samples.append(self._prepare(index, inputs, statistics))
            _digest_inputs(digest, inputs)
        if not self.samples:
            raise InputError("the sample set is empty; pass about 30 processor outputs with images")
        digest.update(objective.encode())
        self.fingerprint = digest.hexdigest()
        self.units: Sequence[Sequence[TokenLayout]] = [
            [placed.context.layout for placed in sample.prefill.units] for sample in self.samples
        ]

    def _prepare(self, index: int, inputs: Inputs, statistics: PixelStatistics) -> Sample:
        """Run one sample unpruned and keep what evaluations need."""
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
            raise InputError(f"sample {index} is not a processor output with input_ids: {type(inputs).__name__}")
        if inputs["input_ids"].shape[0] != 1:
            raise InputError(f"sample {index} has batch size {inputs['input_ids'].shape[0]}; pass samples one by one")
        backbone, decoder = self._family.backbone(self._model), self._family.decoder(self._model)
        calls: list[dict[str, Any]] = []
        handle = decoder.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(dict(kwargs)), with_kwargs=True)
        try:
            with tap_encoders(self._family, self._model) as tap, torch.no_grad():
                mark = tap.mark()
                output = backbone(**{**inputs, "use_cache": False})
                encodings = tap.since(mark)
        finally:
            handle.remove()
        if not encodings:
            raise InputError(f"sample {index} has no image or video, so there is nothing to prune")
        placeholders = self._family.placeholder_ids(self._model)
        mask = inputs.get("attention_mask")
        prefill = place_units(placeholders, encodings, inputs["input_ids"], mask, statistics, calls[0]["inputs_embeds"])
        return Sample({**calls[0], "use_cache": False}, prefill, output.last_hidden_state)

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Mean similarity over the samples; not finite counts as -1 (Eq. 8)."""
        similarities, retentions, nonfinite = [], [], 0
        for sample in self.samples:
            hidden, retention = self.pruned_hidden(sample, strategy)
            similarity = float(self._compare(hidden, sample.target, sample.tail))
            if not torch.isfinite(torch.tensor(similarity)):
                similarity, nonfinite = -1.0, nonfinite + 1
            similarities.append(similarity)
            retentions.append(retention)
        count = len(self.samples)
        return Evaluation(sum(similarities) / count, sum(retentions) / count, nonfinite)

    def pruned_hidden(self, sample: Sample, strategy: Strategy) -> tuple[Tensor, float]:
        """Final-norm hidden states [1, rows, features] of one pruned prefill, and its average retention."""
        decoder = self._family.decoder(self._model)
        scored = plan_units(strategy, sample.prefill.units)
        plan = StagePlan.of(strategy, scored, sample.prefill.present, sample.target.device)
        staged = StagedDecoder(decoder, lambda _: plan, self._family.take_residuals, observed_layers(strategy))
        with staged.installed(), torch.no_grad():
            hidden = _call(decoder, sample.call).last_hidden_state
        plans = [unit.placed.plan for unit in scored] if plan is None else [placed.plan for placed in plan.plans]
        kept = sum(unit.achieved_retention(self.num_layers) * unit.tokens for unit in plans)
        return hidden, kept / sum(unit.tokens for unit in plans)


def _call(decoder: nn.Module, kwargs: dict[str, Any]) -> Any:
    return decoder(**kwargs)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def _last_token(pruned: Tensor, target: Tensor, tail: int) -> Tensor:  # noqa: ARG001
    return _cosine(pruned[0, -1], target[0, -1])


def _first_token(pruned: Tensor, target: Tensor, tail: int) -> Tensor:
    """The first token after the visual ones: those before them cannot see an image and never change."""
    return _cosine(pruned[0, -tail], target[0, -tail])


def _mean_pooling(pruned: Tensor, target: Tensor, tail: int) -> Tensor:  # noqa: ARG001
    return _cosine(pruned[0].float().mean(0), target[0].float().mean(0))


def _top_tokens(pruned: Tensor, target: Tensor, tail: int) -> Tensor:
    """The last three tokens (fewer, if fewer follow the visual ones), each against its counterpart."""
    last = min(3, tail)
    return _cosine(pruned[0, -last:], target[0, -last:]).mean()


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "last-token": _last_token,
    "first-token": _first_token,
    "mean-pooling": _mean_pooling,
    "top-3-tokens": _top_tokens,
}
"""Targets of the objective (paper Table 9).

Each maps pruned and unpruned hidden states [1, rows, features], and the number of rows after the last visual token, to
a similarity.
"""


def _model_identity(model: Any) -> str:
    """Class, configuration and a checksum of a few weights: enough to tell models apart, cheap on any size."""
    parameters = list(model.parameters())
    probes = [parameters[i] for i in range(0, len(parameters), max(1, len(parameters) // 16))]
    checksum = [f"{tuple(p.shape)}:{p.detach().flatten()[:64].double().sum().item():.6e}" for p in probes]
    return f"{type(model).__name__} {model.config.to_json_string(use_diff=False)} {checksum}"


def _digest_inputs(digest: Any, inputs: Inputs) -> None:
    for name in sorted(inputs):
        value = inputs[name]
        if isinstance(value, Tensor):
            raw = value.detach().cpu().contiguous()
            digest.update(f"{name}{raw.dtype}{tuple(raw.shape)}".encode())
            digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
