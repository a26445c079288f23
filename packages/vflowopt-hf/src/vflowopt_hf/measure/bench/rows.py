"""What was measured of a candidate becomes its row of the benchmark."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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
    (cache, plan), rows = _seen(subject, candidate)
    tokens, retention = _retained(subject, candidate, plan)
    flops = subject.batch * prefill_flops(subject.decoder, rows)
    all_pairs = subject.batch * prefill_flops(subject.decoder, rows, causal=False)
    prefill = found.work.get("LM prefill")
    masked = all_pairs - flops if prefill is not None and prefill.layer_flops == all_pairs else 0
    by_layer = key_value_bytes(cache)
    return BenchRow(
        name=candidate.name,
        retention=retention,
        tokens=tokens,
        lengths=rows,
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


def _seen(subject: Subject, candidate: Candidate) -> tuple[tuple[Any, StagePlan | None], tuple[int, ...]]:
    """A prefill of the decoder, and the rows that each of its layers really had."""
    layers: list[nn.Module] = list(subject.decoder.layers)  # type: ignore[arg-type]
    rows = dict.fromkeys(layers, 0)

    def note(layer: nn.Module, _: Any, output: Any) -> None:
        rows[layer] = int((output if isinstance(output, Tensor) else output[0]).shape[1])

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(note).remove)
        return candidate.decode_prompt(), tuple(rows.values())


def _retained(subject: Subject, candidate: Candidate, plan: StagePlan | None) -> tuple[tuple[int, ...], float]:
    """Visual tokens of each stage of one sample, and average retention."""
    layers = len(subject.decoder.layers)  # type: ignore[arg-type]
    visual = sum(unit.context.layout.tokens for unit in subject.observed.prefill.units if unit.sample == 0)
    if candidate.strategy is None:
        return (visual,), 1.0
    placed = [unit.placed for unit in candidate.scored] if plan is None else plan.plans
    plans = [one.plan for one in placed if one.sample == 0]
    counts = tuple(sum(of_stage) for of_stage in zip(*(one.counts for one in plans), strict=True))
    retained = sum(one.achieved_retention(layers) * one.tokens for one in plans)
    return (visual, *counts), retained / visual


def _per_step(part: Part, timing: Timing) -> Timing:
    return timing.scaled(1 / DECODE_STEPS) if part == "decode per token" else timing
