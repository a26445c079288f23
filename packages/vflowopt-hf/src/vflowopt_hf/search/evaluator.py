"""The search's objective (paper Eq. 8): how close pruned hidden states stay to unpruned ones."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Evaluation, Inputs
from vflowopt.errors import InputError, StrategyError
from vflowopt_hf.decoder.kv_cache import cache_shape, num_layers
from vflowopt_hf.decoder.layer_kinds import attending_layers
from vflowopt_hf.decoder.staged import StagedDecoder
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prefill import plan_units
from vflowopt_hf.plans.rows import PlacedPlan
from vflowopt_hf.plans.stage_plan import StagePlan, attention_use
from vflowopt_hf.pruning.session import refuse_nesting
from vflowopt_hf.search.batching import batch_key, batches, in_batches, join_samples
from vflowopt_hf.search.clock import ForwardClock
from vflowopt_hf.search.objectives import OBJECTIVES
from vflowopt_hf.search.sample import Sample, observe_sample
from vflowopt_hf.search.sample_store import MemoryLimits, SampleStore


@dataclass(frozen=True)
class Outcomes:
    """What one strategy does to each sample.

    Attributes:
        similarities: of pruned and unpruned hidden states, in the order of the samples.
        retentions: achieved average retentions.
        decoder_seconds: time in the decoder's forwards; ``None`` if it was not measured.
    """

    similarities: tuple[float, ...]
    retentions: tuple[float, ...]
    decoder_seconds: float | None

    def evaluation(self) -> Evaluation:
        """The means; a similarity that is not finite counts as -1 (Eq. 8)."""
        finite = tuple(value if math.isfinite(value) else -1.0 for value in self.similarities)
        nonfinite = sum(not math.isfinite(value) for value in self.similarities)
        count = len(finite)
        return Evaluation(sum(finite) / count, sum(self.retentions) / count, nonfinite, self.decoder_seconds, finite)


class HiddenStateEvaluator:
    """Scores strategies by the cosine similarity of final hidden states (:class:`vflowopt.adapter.Evaluator`).

    Vision features and unpruned targets are computed once, here. An evaluation costs one pruned decoder prefill per
    sample: no vision tower, no language-model head, no cache, no decoding.

    Args:
        family: the model's family.
        model: the model; not changed.
        samples: processor outputs of batch size 1 with at least one image or video each; looked at one by one.
        objective: a key of :data:`vflowopt_hf.search.objectives.OBJECTIVES`.
        statistics: pixel normalisation to invert for patch entropy.
        limits: how much memory samples may take; scores do not depend on it.
        batch_tokens: run samples of equal length and equal units together, up to so many tokens at once; 0 runs them
            one by one. Batches change scores by rounding, so that this is part of the fingerprint.

    Attributes:
        samples: what is kept of them.
        lengths: rows of each sample's unpruned prefill.
        cache: the model's KV cache.
        digests: of each sample's inputs.
        targets: what each sample is compared with, [1, read, features].
        identity: of everything else that scores depend on.

    Raises:
        InputError: no samples, an unknown objective, or a sample without visual tokens or of another batch size.
        PruningStateError: the model is being pruned, so that targets would be too.
        UnsupportedOperationError: the objective needs what the model does not have.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        samples: Iterable[Inputs],
        objective: str,
        statistics: PixelStatistics,
        *,
        limits: MemoryLimits | None = None,
        batch_tokens: int = 0,
    ) -> None:
        if objective not in OBJECTIVES:
            raise InputError(f"unknown objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
        refuse_nesting(family, model)
        self._family, self._model, self._objective = family, model, OBJECTIVES[objective]
        self._read = self._objective.reader(model)
        self.num_layers = num_layers(family, model)
        self.samples = SampleStore(limits or MemoryLimits())
        self.digests: list[str] = []
        self.targets: list[Tensor] = []
        units, keys, lengths = [], [], []
        for index, inputs in enumerate(samples):
            sample = self._prepare(index, inputs, statistics)
            self.samples.append(sample)
            self.digests.append(_digest(inputs))
            self.targets.append(sample.target)
            units.append([placed.context.layout for placed in sample.prefill.units])
            keys.append(batch_key(sample))
            lengths.append(sample.queries)
            self._device = sample.call["inputs_embeds"].device
        if not self.digests:
            raise InputError("the sample set is empty; pass about 45 processor outputs with images")
        self.centre_on(self.targets)
        self.units: Sequence[Sequence[TokenLayout]] = units
        self.lengths: Sequence[int] = lengths
        self.cache = cache_shape(family, model)
        self._batches = list(batches(keys, lengths, batch_tokens))
        self.batch_tokens = batch_tokens
        settings = f"{objective} batch_tokens={batch_tokens}" if batch_tokens else objective
        self.identity = f"{_model_identity(model)} {settings}"
        self.fingerprint = fingerprint(self.identity, self.digests)

    @property
    def is_centred(self) -> bool:
        """Whether the mean of all targets matters."""
        return self._objective.is_centred

    def centre_on(self, targets: Sequence[Tensor]) -> None:
        """Take the mean of these targets from what is compared, if the objective is centred.

        Args:
            targets: of all samples of the search, in their order, wherever each of them is evaluated.
        """
        self._centre = torch.stack([own.float() for own in targets]).mean(0) if self._objective.is_centred else None

    def _compared(self, read: Tensor, target: Tensor) -> Tensor:
        if self._centre is None:
            return self._objective.compare(read, target)
        return self._objective.compare(read.float() - self._centre, target.float() - self._centre)

    def _prepare(self, index: int, inputs: Inputs, statistics: PixelStatistics) -> Sample:
        """Run one sample unpruned and keep what evaluations read."""
        observed = observe_sample(self._family, self._model, index, inputs, statistics)
        with torch.no_grad():
            return observed.compact(self._read(observed.target, observed.tail))

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Mean similarity over the samples; not finite counts as -1 (Eq. 8)."""
        return self.outcomes(strategy).evaluation()

    def evaluate_on(self, strategy: Strategy, samples: Sequence[int]) -> Evaluation:
        """See :meth:`vflowopt.adapter.SamplingEvaluator.evaluate_on`."""
        return self.outcomes(strategy, samples).evaluation()

    def can_rescore(self, stages: Sequence[int]) -> bool:
        """See :meth:`vflowopt.adapter.RescoringEvaluator.can_rescore`."""
        config: Any = self._family.decoder(self._model).config
        try:
            attending_layers(config, [stage - 1 for stage in stages if stage])
        except StrategyError:
            return False
        return True

    def outcomes(
        self,
        strategy: Strategy,
        samples: Sequence[int] | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> Outcomes:
        """Similarity and retention of samples, in their order; results are waited for only at the end.

        Args:
            strategy: the strategy.
            samples: indices of some of the samples; by default all.
            between: called before each prefill; may raise.
        """
        similarities: dict[int, Tensor] = {}
        retentions: dict[int, float] = {}
        chosen = set(range(len(self.digests)) if samples is None else samples)
        groups = [own for batch in self._batches if (own := [index for index in batch if index in chosen])]
        order = [index for group in groups for index in group]
        clock = ForwardClock(self._device)
        for batch, samples_of in zip(groups, in_batches(self.samples.in_turn(order), groups), strict=True):
            between()
            hidden, plans = self._prefill(join_samples(samples_of), strategy, clock)
            for number, (index, sample) in enumerate(zip(batch, samples_of, strict=True)):
                with torch.no_grad():
                    read = self._read(hidden[number : number + 1], sample.tail)
                similarities[index] = self._compared(read, sample.target)
                retentions[index] = self._retention([plan for plan in plans if plan.sample == number])
        values = torch.stack([similarities[index] for index in sorted(chosen)]).tolist() if chosen else []
        return Outcomes(tuple(values), tuple(retentions[index] for index in sorted(retentions)), clock.seconds())

    def pruned_hidden(self, sample: Sample, strategy: Strategy) -> tuple[Tensor, float]:
        """Final-norm hidden states [1, rows, features] of one pruned prefill, and its average retention."""
        hidden, plans = self._prefill(sample, strategy, ForwardClock(self._device))
        return hidden, self._retention(plans)

    def _prefill(self, sample: Sample, strategy: Strategy, clock: ForwardClock) -> tuple[Tensor, Sequence[PlacedPlan]]:
        """Final-norm hidden states of one pruned prefill, and the plan of each unit."""
        decoder = self._family.decoder(self._model)
        scored = plan_units(strategy, sample.prefill.units)
        plan = StagePlan.of(strategy, scored, sample.prefill.table.on(sample.call["inputs_embeds"].device))
        staged = StagedDecoder.of_plan(decoder, plan, self._family.take_residuals, attention_use(strategy))
        with staged.installed(), torch.no_grad(), clock.running():
            hidden: Tensor = decoder(**sample.call).last_hidden_state
        return hidden, [unit.placed for unit in scored] if plan is None else plan.plans

    def _retention(self, plans: Sequence[PlacedPlan]) -> float:
        kept = sum(placed.plan.achieved_retention(self.num_layers) * placed.plan.tokens for placed in plans)
        return kept / sum(placed.plan.tokens for placed in plans)


def fingerprint(identity: str, digests: Iterable[str]) -> str:
    """Of an evaluator with this identity and these samples, wherever each of them is evaluated."""
    return hashlib.sha256("\n".join([identity, *digests]).encode()).hexdigest()


def _model_identity(model: Any) -> str:
    """Class, configuration and a checksum of a few weights: enough to tell models apart, cheap on any size."""
    parameters = list(model.parameters())
    probes = [parameters[i] for i in range(0, len(parameters), max(1, len(parameters) // 16))]
    checksum = [f"{tuple(p.shape)}:{p.detach().flatten()[:64].double().sum().item():.6e}" for p in probes]
    return f"{type(model).__name__} {model.config.to_json_string(use_diff=False)} {checksum}"


def _digest(inputs: Inputs) -> str:
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        if isinstance(value, Tensor):
            raw = value.detach().cpu().contiguous()
            digest.update(f"{name}{raw.dtype}{tuple(raw.shape)}".encode())
            digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
    return digest.hexdigest()
