"""Staged pruning against upstream itself: exact where nothing is dropped, equal to masking where something is."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch

from vflowopt import PruningPlan, Strategy
from vflowopt.arrays import to_numpy
from vflowopt.components.mass import LogMass
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.testing import fail, require, require_valid_plan
from vflowopt_hf.decoder.contents import key_value_bytes, state_bytes
from vflowopt_hf.decoder.layer_kinds import stores_keys
from vflowopt_hf.testing.batches import Batch
from vflowopt_hf.testing.generation import EXACT, generate, require_control, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_from

STEPS, FEW = 20, 4
"""How many decoding steps are compared, and how many where another comparison goes as far for the same cache."""


def image(subject: Subject) -> None:
    """One image, three stages, recycling and entropy: 20 decode steps as if pruned tokens were masked."""
    _against_oracle(subject, subject.batch(subject.image(1)), _three_stages)


def several_images(subject: Subject) -> None:
    """Several images in a prompt, pruned and recycled inside the decoder: 20 decode steps as if masked."""
    _against_oracle(subject, subject.batch(subject.several()), _inside)


def video(subject: Subject) -> None:
    """Videos, also beside images where these may stand beside videos, with and without recycling: as if masked."""
    _against_oracle(subject, subject.batch(subject.video()), _three_stages)
    _against_oracle(subject, subject.batch(subject.video(), subject.mixed()), _late, FEW)


def ragged_batch(subject: Subject) -> None:
    """Samples of different lengths and image counts, one without any: each as if its pruned tokens were masked."""
    batch = subject.batch(*subject.ragged())
    _against_oracle(subject, batch, _three_stages)
    _against_oracle(subject, batch, _inside, FEW)


def mass(subject: Subject) -> None:
    """Retained tokens get attention by what they stand for, at every stage: as if their logits had been raised."""
    alone, ragged = subject.batch(subject.image(1)), subject.batch(*subject.ragged())
    _against_oracle(subject, alone, _weighed, FEW)
    _against_oracle(subject, alone, _weighed_inside, FEW)
    _against_oracle(subject, ragged, _weighed)
    _against_oracle(subject, ragged, _weighed_inside, FEW)


def separators(subject: Subject) -> None:
    """Whatever becomes of separators, before the LLM and inside it: as if pruned tokens were masked."""
    batch = subject.batch(subject.image(1))
    has_some = any(placed.unit.layout.structural.any() for placed in batch.placed)
    for treatment in get_args(Separators) if has_some else (SEPARATORS,):
        for strategy_for in (_scarce, _late):
            _against_oracle(subject, batch, partial(_treating, treatment, strategy_for), FEW)


def kv_cache(subject: Subject) -> None:
    """Bytes of keys, values and recurrent states are those of the tensors in the cache, pruned and not."""
    batch = subject.batch(subject.several())
    with torch.no_grad():
        full = cache_from(subject.model(**batch.inputs, use_cache=True))
        with subject.prune(subject.strategy(batch)) as pruning:
            cache = cache_from(subject.model(**batch.inputs, use_cache=True))
    report = pruning.report
    told = (report.kv_cache_bytes, report.kv_cache_bytes_unpruned, report.state_bytes)
    held = (sum(key_value_bytes(cache)), sum(key_value_bytes(full)), state_bytes(full))
    require(told == held, f"the report says {told} bytes (pruned, unpruned, recurrent states), the caches hold {held}")
    require(state_bytes(cache) == held[2], "pruning changes the size of recurrent states")


def identity(subject: Subject) -> None:
    """Retention 1 is upstream, bit for bit: logits and generated ids, alone and in a ragged batch."""
    keep_all = Strategy.vflowopt(num_layers=subject.num_layers, retention=(1.0, 1.0, 1.0), entropy_weight=0.3)
    for what, samples in (("batch 1", [subject.image()]), ("a ragged batch", subject.ragged())):
        inputs = subject.batch(*samples).inputs
        with torch.no_grad():
            expected = generate(subject, inputs, 6)
            with subject.prune(keep_all):
                got = generate(subject, inputs, 6)
        require(
            torch.equal(got.sequences, expected.sequences) and all(map(torch.equal, got.logits, expected.logits)),
            f"retention 1 changes the logits of {what}: observing or hooking changes what upstream computes",
        )


def batch_invariance(subject: Subject) -> None:
    """A sample of a ragged batch gets the plan and the logits that it gets alone."""
    samples = subject.ragged()
    together = subject.batch(*samples)
    strategy = _three_stages(subject, together)
    with subject.prune(strategy) as pruning, torch.no_grad():
        logits = subject.model(**together.inputs).logits[:, -1]
        plans = [plan.to_host() for plan in pruning.plan]
        for number, sample in enumerate(samples):
            alone = subject.model(**subject.batch(sample).inputs).logits[0, -1]
            own = [plan for plan, placed in zip(plans, together.placed, strict=True) if placed.sample == number]
            for one, other in zip(own, pruning.plan if own else [], strict=True):
                require(
                    all(map(np.array_equal, one.kept, map(to_numpy, other.kept))),
                    f"sample {number} keeps other tokens in a batch than alone: Family.units mixes samples up",
                )
            close = torch.isclose(logits[number], alone, rtol=1e-4, atol=EXACT)
            difference = float((logits[number] - alone).abs().max())
            require(
                close.all() or difference <= require_control(subject, together),
                f"sample {number} of a ragged batch differs by {difference:.2g} from the sample alone",
            )


def _three_stages(subject: Subject, batch: Batch) -> Strategy:
    return subject.strategy(batch)


def _scarce(subject: Subject, batch: Batch) -> Strategy:  # noqa: ARG001
    """A stage before the LLM that leaves fewer tokens than many images have separators."""
    return Strategy.vflowopt(num_layers=subject.num_layers, retention=(0.5, 0.1), stages=(0, 2), cell=2.5)


def _inside(subject: Subject, batch: Batch) -> Strategy:
    stages = (1, subject.num_layers // 2 + 1)
    return subject.strategy(batch, stages, cell=3.0, entropy_weight=0.0, threshold=1.5)


def _weighed(subject: Subject, batch: Batch) -> Strategy:
    return subject.strategy(batch, mass=LogMass(gamma=1.0))


def _weighed_inside(subject: Subject, batch: Batch) -> Strategy:
    stages = (1, subject.num_layers // 2 + 1)
    return subject.strategy(batch, stages, cell=None, mass=LogMass(gamma=0.5, weighted=True))


def _late(subject: Subject, batch: Batch) -> Strategy:
    return subject.strategy(batch, (2, 3), cell=None, entropy_weight=0.0, threshold=1.5)


def _treating(
    treatment: Separators, strategy_for: Callable[[Subject, Batch], Strategy], subject: Subject, batch: Batch
) -> Strategy:
    return strategy_for(subject, batch).model_copy(update={"separators": treatment})


def _against_oracle(
    subject: Subject, batch: Batch, strategy_for: Callable[[Subject, Batch], Strategy], steps: int = STEPS
) -> None:
    strategy = strategy_for(subject, batch)
    what = f"stages {strategy.schedule.boundaries}, {len(batch.inputs['input_ids'])} sample(s)"
    with subject.prune(strategy) as pruning:
        try:
            output = generate(subject, batch.inputs, steps + 1)
        except Exception as error:
            fail(
                f"{what}: the pruned forward raises {type(error).__name__}: {error}. If shapes do not match, the "
                f"decoder uses something of the unpruned length after a stage: see Family.take_residuals",
                error,
            )
        plans, report = pruning.plan, pruning.report
    _require_planned(batch, strategy, plans)
    if strategy.mass is not None:
        _require_weighed(plans)
    lengths = _stored_lengths(subject, batch, plans)
    require(
        report.sequence_lengths == lengths,
        f"{what}: layers run with {report.sequence_lengths} tokens, planned were {lengths}",
    )
    _require_cache(subject, cache_from(output), batch.inputs["input_ids"].shape[1], lengths, steps)
    require_oracle_logits(Oracle(subject, batch, plans), output, what)


def _require_planned(batch: Batch, strategy: Strategy, plans: list[PruningPlan]) -> None:
    require(len(plans) == len(batch.placed), f"{len(batch.placed)} images and videos, but {len(plans)} plans")
    for number, (placed, plan) in enumerate(zip(batch.placed, plans, strict=True)):
        tokens, kept = len(placed.rows), [set(to_numpy(stage).tolist()) for stage in plan.kept]
        counts = strategy.schedule.counts(tokens)
        require(plan.tokens == tokens, f"plan {number} is over {plan.tokens} tokens, the prompt holds {tokens}")
        require(plan.counts == counts, f"plan {number} keeps {plan.counts} of {tokens} tokens, scheduled were {counts}")
        require(all(later <= earlier for earlier, later in pairwise(kept)), f"stages of plan {number} are not nested")
        require_valid_plan(plan, strategy)


def _require_weighed(plans: list[PruningPlan]) -> None:
    require(
        max(float(to_numpy(bias).max(initial=0)) for plan in plans for bias in plan.bias) > 0.1,
        "no token stands for others: the case's images are too small to say anything about mass",
    )


def _stored_lengths(subject: Subject, batch: Batch, plans: list[PruningPlan]) -> tuple[int, ...]:
    """Tokens per decoder layer: those of the sample that retains most, whole prompts before the first stage."""
    lengths = []
    for layer in range(subject.num_layers):
        rows = batch.inputs["attention_mask"].sum(dim=1).tolist()
        stages = [stage for stage, boundary in enumerate(plans[0].boundaries) if boundary <= layer]
        for placed, plan in zip(batch.placed, plans, strict=True):
            rows[placed.sample] += (plan.counts[stages[-1]] - plan.tokens) if stages else 0
        lengths.append(max(rows) if stages else batch.inputs["input_ids"].shape[1])
    return tuple(lengths)


def _require_cache(subject: Subject, cache: Any, prompt: int, lengths: tuple[int, ...], steps: int) -> None:
    config: Any = subject.family.decoder(subject.model).config
    for index, (layer, length) in enumerate(zip(cache.layers, lengths, strict=True)):
        if not stores_keys(config, index):
            continue
        stored, logical = layer.keys.shape[-2], layer.get_seq_length()
        windowed = getattr(layer, "is_sliding", False)
        require(
            stored == length + steps or windowed,
            f"layer {index} stores {stored} tokens after {steps} steps, planned were {length + steps}",
        )
        require(logical == prompt + steps, f"layer {index} says it has seen {logical} tokens of {prompt + steps}")
