"""What was measured of a candidate becomes its row of the benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass

from vflowopt.benchmark import BenchRow, Generation, Kernels, Memory, Part, Work
from vflowopt.benchmark.timing import Timing
from vflowopt_hf.decoder.contents import key_value_bytes, state_bytes
from vflowopt_hf.measure.bench.tasks import DECODE_STEPS, Candidate, Subject
from vflowopt_hf.measure.bench.work import Counted
from vflowopt_hf.measure.flops import prefill_flops
from vflowopt_hf.plans.stage_plan import StagePlan

WITH_DECODER: tuple[Part, ...] = ("LM prefill", "end-to-end prefill")


@dataclass(frozen=True, eq=False)
class Found:
    """What was measured of one candidate.

    Attributes:
        times: by part; of decoding, of all its steps.
        memory: by part, if measured.
        work: by part, if counted.
        kernels: by part, if measured.
        generation: by mode, if measured.
    """

    times: Mapping[Part, Timing]
    memory: Mapping[Part, Memory]
    work: Mapping[Part, Counted]
    kernels: Mapping[Part, Kernels]
    generation: tuple[Generation, ...]


def row(subject: Subject, candidate: Candidate, found: Found) -> BenchRow:
    """Runs one more prefill, which tells what is retained and cached."""
    cache, plan = candidate.decode_prompt()
    lengths, tokens, retention = _retained(subject, candidate, plan)
    flops = subject.batch * prefill_flops(subject.decoder, lengths)
    all_pairs = subject.batch * prefill_flops(subject.decoder, lengths, causal=False)
    prefill = found.work.get("LM prefill")
    masked = all_pairs - flops if prefill is not None and prefill.layer_flops == all_pairs else 0
    by_layer = key_value_bytes(cache)
    return BenchRow(
        name=candidate.name,
        retention=retention,
        tokens=tokens,
        lengths=lengths,
        flops=flops,
        flops_all_pairs=all_pairs,
        kv_cache_bytes=sum(by_layer),
        times={part: _per_step(part, timing) for part, timing in found.times.items()},
        kv_cache_by_layer=by_layer,
        state_bytes=state_bytes(cache),
        flops_by_torch=None if prefill is None else prefill.layer_flops,
        work={
            part: Work(count.flops - (masked if part in WITH_DECODER else 0), count.moved)
            for part, count in found.work.items()
        },
        memory=found.memory,
        kernels=found.kernels,
        generation=found.generation,
    )


def _retained(
    subject: Subject, candidate: Candidate, plan: StagePlan | None
) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """Rows of each layer and visual tokens of each stage of one sample, and average retention."""
    layers, observed = len(subject.decoder.layers), subject.observed  # type: ignore[arg-type]
    own = [unit for unit in observed.prefill.units if unit.sample == 0]
    visual = sum(unit.context.layout.tokens for unit in own)
    if candidate.strategy is None:
        return (observed.queries,) * layers, (visual,), 1.0
    placed = [unit.placed for unit in candidate.scored] if plan is None else plan.plans
    plans = [one.plan for one in placed if one.sample == 0]
    stages = [None if plan is None else plan.stage_at(layer) for layer in range(layers)]
    lengths = tuple(
        observed.queries if plan is None or stage is None else int(plan.stages[stage].logical.shape[1])
        for stage in stages
    )
    counts = tuple(sum(of_stage) for of_stage in zip(*(one.counts for one in plans), strict=True))
    retained = sum(one.achieved_retention(layers) * one.tokens for one in plans)
    return lengths, (visual, *counts), retained / visual


def _per_step(part: Part, timing: Timing) -> Timing:
    return timing.scaled(1 / DECODE_STEPS) if part == "decode per token" else timing
