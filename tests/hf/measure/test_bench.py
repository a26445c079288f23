"""The benchmark: FLOPs agree with torch's own counter, rows are what a pruned forward does, the model is left alone."""

import importlib

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support import tiny
from support.cases import BY_DECODER
from support.tiny_qwen import qwen_inputs, tiny_qwen2_vl
from vflowopt import Strategy, prune
from vflowopt.adapter import Adapter, GrowthAdapter
from vflowopt.benchmark import PARTS
from vflowopt.components.baselines import UniformGrid
from vflowopt.components.schedule import Progressive
from vflowopt.errors import InputError, StrategyError
from vflowopt.methods import FastV
from vflowopt.plugins import find_adapter
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.measure.bench import Bench, rows
from vflowopt_hf.measure.bench.tasks import Candidate, KnownEntropy
from vflowopt_hf.measure.bench.work import counted
from vflowopt_hf.measure.flops import prefill_flops
from vflowopt_hf.testing.subject import Subject

STRATEGY = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, cell=2.0)
WITH_ENTROPY = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, entropy_weight=2.0)
INSIDE = Strategy(scorer=FastV(), schedule=Progressive(stages=(2,), retention=(0.4,)))


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_onevision()


@pytest.fixture(scope="module")
def inputs(model):
    return tiny.image_inputs(model, [[(60, 84)]])


def candidate(model, inputs, strategy):
    bench = Bench(llava_onevision.family, model, inputs, llava_onevision.family.pixel_statistics)
    return Candidate(bench._subject, "it", strategy)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_flops_agree_with_torch(count):
    decoder = tiny.tiny_onevision("eager").model.language_model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(input_ids=torch.ones(1, count, dtype=torch.long))
    assert prefill_flops(decoder, [count] * tiny.LAYERS, causal=False) == counter.get_total_flops()


def test_causal_attention_needs_half_of_the_pairs(model):
    decoder, lengths = model.model.language_model, [100] * tiny.LAYERS
    both = prefill_flops(decoder, lengths, causal=False) - prefill_flops(decoder, lengths)
    assert both == tiny.LAYERS * 4 * decoder.config.hidden_size * (100 * 100 - 100 * 101 // 2)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl"])
def test_flops_of_pruned_prefills_agree_with_torch(family, attention):
    """The report's own cross-check: exact, also where stages shorten the prompt, and of a batch."""
    if family == "qwen2_vl":
        model, inputs = tiny_qwen2_vl(attention), qwen_inputs([[(60, 84)]])
    else:
        model = tiny.tiny_onevision(attention)
        inputs = tiny.image_inputs(model, [[(60, 84)]])
    bench = find_adapter(model).benchmark(
        model, inputs, {"mine": STRATEGY}, parts=("LM prefill",), rounds=1, batch=2, details=True
    )
    full, mine = bench.rows
    assert mine.flops_by_torch < full.flops_by_torch
    for row in bench.rows:
        assert row.flops_by_torch == row.flops_all_pairs
        needed = 2 * prefill_flops(model.model.language_model, row.lengths)
        assert row.flops == needed < row.flops_all_pairs
        assert row.work["LM prefill"].flops >= needed  # positions are a matrix product, too


PACKED = ("minicpm_v4_6", "molmo2")
"""Whose inputs a benchmark cannot repeat along the first axis: pixels lie along the last, or patches have numbers."""


@pytest.mark.parametrize("module", BY_DECODER)
def test_the_formula_holds_for_every_family_without_experts_and_recurrences(module):
    case = importlib.import_module(f"support.cases.{module}").CASE
    subject, adapter = Subject(case, "sdpa"), TransformersAdapter(case.family)
    layers = adapter.num_layers(subject.model)
    strategy = Strategy.vflowopt(num_layers=layers, retention=(0.8, 0.7, 0.7), threshold=1.0, cell=2.0)
    batch, inputs = 1 if module in PACKED else 2, subject.batch(subject.image(-1)).inputs
    bench = Bench(case.family, subject.model, inputs, adapter.statistics(subject.processor), batch)
    experts = any(name.endswith("experts") for name, _ in subject.model.named_modules())
    holds = not experts and not case.recurrent
    for each in (None, strategy):
        it = Candidate(bench._subject, "it", each)
        with torch.no_grad():
            work = {"LM prefill": counted(it.run("LM prefill"))}
            found = rows.row(bench._subject, it, rows.Found(times={}, memory={}, work=work, kernels={}, generation=()))
        assert (found.flops_by_torch == found.flops_all_pairs) == holds
        assert holds == (found.work["LM prefill"].flops < found.flops_by_torch)  # else torch's count stands as it is


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_what_a_pruned_forward_reports(model, inputs, batch):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model(**inputs)
    report = pruning.report
    bench = llava_onevision.benchmark(model, inputs, {"mine": STRATEGY}, parts=("LM prefill",), rounds=1, batch=batch)
    full, mine = bench.rows
    assert bench.batch == batch
    assert mine.lengths == report.sequence_lengths
    assert full.lengths == (report.full_length,) * tiny.LAYERS
    assert mine.tokens == (report.units[0].tokens, *report.units[0].counts)
    assert mine.retention == pytest.approx(report.retention)
    assert mine.kv_cache_bytes == sum(mine.kv_cache_by_layer) == batch * report.kv_cache_bytes
    assert full.kv_cache_bytes == batch * report.kv_cache_bytes_unpruned
    per_row = full.kv_cache_by_layer[0] // report.full_length
    assert mine.kv_cache_by_layer == tuple(per_row * rows for rows in report.sequence_lengths)


def test_parts_are_timed_where_they_apply(model, inputs):
    seen = []
    strategies = {"mine": STRATEGY, "entropy": WITH_ENTROPY, "inside": INSIDE}
    bench = llava_onevision.benchmark(
        model, inputs, strategies, rounds=2, on_task=lambda done, total: seen.append((done, total))
    )
    full, mine, entropy, inside = bench.rows
    assert set(full.times) == {"vision tower", "entropy", "LM prefill", "end-to-end prefill", "decode per token"}
    assert set(mine.times) == set(PARTS) - {"vision tower", "entropy"}
    assert set(entropy.times) == set(PARTS) - {"vision tower"}
    assert set(inside.times) == set(mine.times) - {"gathers"}  # decided by what layers compute
    assert bench.importance_share(mine) > 0
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]
    assert (bench.rates, bench.memory_source, mine.work, mine.memory) == (None, "", {}, {})


def test_details_cover_every_timed_part(model, inputs):
    seen = []
    bench = llava_onevision.benchmark(
        model, inputs, {"mine": STRATEGY}, rounds=1, details=True, on_task=lambda *step: seen.append(step)
    )
    for row in bench.rows:
        assert set(row.work) == set(row.times)
        assert set(row.memory) in (set(row.times), set())  # where it can be measured
    assert bench.rates.flops > 0
    assert bench.rates.moved > 0
    assert seen[-1] == (len(seen), len(seen))
    tower = next(counted.flops for part, counted in bench.unpruned.work.items() if part == "vision tower")
    whole, prefill = (bench.unpruned.work[part].flops for part in ("end-to-end prefill", "LM prefill"))
    assert whole > tower + prefill
    shorter = {part: bench.rows[1].work[part].flops for part in ("end-to-end prefill", "LM prefill")}
    # The rest is as unpruned, and importance besides: nothing is counted twice.
    assert tower < shorter["end-to-end prefill"] - shorter["LM prefill"] < 1.2 * (whole - prefill)


def test_decoding_reads_all_weights_and_the_cache_for_one_token(model, inputs):
    bench = llava_onevision.benchmark(
        model, inputs, {"mine": STRATEGY}, parts=("decode per token",), rounds=1, details=True
    )
    full, mine = (row.work["decode per token"] for row in bench.rows)
    language = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    weights = sum(weight.nbytes for weight in language)
    assert full.moved > weights + bench.unpruned.kv_cache_bytes
    saved = bench.unpruned.kv_cache_bytes - bench.rows[1].kv_cache_bytes
    assert full.moved - mine.moved == 2 * saved  # upstream's cache is read, and written anew as it grows
    linear = 2 * sum(weight.numel() for weight in language if weight.ndim == 2)
    assert linear < mine.flops < full.flops


def test_gathers_leave_the_rows_that_the_last_stage_keeps(model, inputs):
    plain = Strategy(scorer=UniformGrid(), schedule=Progressive(stages=(0, 2, 4), retention=(0.6, 0.7, 0.5)))
    with prune(model, plain) as pruning, torch.no_grad():
        model(**inputs)
    (plan,) = pruning.plan
    it = candidate(model, inputs, plain)
    with torch.no_grad():
        hidden = it.run("gathers")()
    entered = it._subject.observed.call["inputs_embeds"]
    ids = inputs["input_ids"][0].numpy()
    rows = np.flatnonzero(ids == tiny.IMAGE)
    kept = np.sort(np.concatenate([np.flatnonzero(ids != tiny.IMAGE), rows[plan.kept[-1]]]))
    assert torch.equal(hidden, entered[:, kept])


def test_capture_is_timed_without_entropy_and_scores_the_same(model, inputs):
    it = candidate(model, inputs, WITH_ENTROPY)
    (context,) = it._subject.contexts
    (scored,) = it.scored
    known = KnownEntropy.of(context)
    object.__setattr__(known, "unit", None)  # pixels are out of reach
    assert torch.equal(known.fresh().entropy, context.entropy)
    with torch.no_grad():
        (importance,) = it.run("attention capture")()
        (entropy,) = it.run("entropy")()
    assert torch.equal(importance, scored.score.importance)
    assert torch.equal(entropy, context.entropy)


def test_units_of_a_batch_are_scored_and_planned_together_as_in_a_prefill(model, inputs):
    """What is timed gives what a prefill decides, of every sample."""
    bench = Bench(llava_onevision.family, model, inputs, llava_onevision.family.pixel_statistics, batch=3)
    it = Candidate(bench._subject, "it", WITH_ENTROPY)
    with torch.no_grad():
        importance, kept = it.run("attention capture")(), it.run("planning")()
    assert len(importance) == len(kept) == len(it.scored) == 3
    for scored, own, last in zip(it.scored, importance, kept, strict=True):
        assert torch.equal(own, scored.score.importance)
        assert torch.equal(last, scored.placed.plan.kept[-1])


def test_the_model_is_left_as_it_was(model, inputs):
    parts = ("gathers", "LM prefill", "end-to-end prefill", "decode per token")

    def hooks():
        return [(len(each._forward_hooks), len(each._forward_pre_hooks)) for each in model.modules()]

    with torch.no_grad():
        before, had = model(**inputs).logits, hooks()
        llava_onevision.benchmark(model, inputs, {"mine": STRATEGY}, parts=parts, rounds=1, details=True)
        after = model(**inputs).logits
    assert torch.equal(before, after)
    assert hooks() == had


def test_what_cannot_be_measured_is_refused(model, inputs):
    with pytest.raises(StrategyError, match="beyond the last"):
        llava_onevision.benchmark(model, inputs, {"x": Strategy.preset("llava-onevision-7b/25")}, rounds=1)
    with pytest.raises(InputError, match="unpruned"):
        llava_onevision.benchmark(model, inputs, {"unpruned": STRATEGY}, rounds=1)
    with pytest.raises(InputError, match="no image"):
        llava_onevision.benchmark(model, {"input_ids": torch.ones(1, 5, dtype=torch.long)}, {}, rounds=1)
    with pytest.raises(InputError, match=r"input_ids \[1, queries\]"):
        llava_onevision.benchmark(model, {"input_ids": torch.ones(2, 5, dtype=torch.long)}, {}, rounds=1)


def test_the_adapter_offers_what_the_core_asks_for():
    assert isinstance(llava_onevision, Adapter)
    assert isinstance(llava_onevision, GrowthAdapter)
