"""Samples in memory, in RAM and on disk: the same scores wherever they are."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.tiny import CROP, LAYERS, image_inputs, tiny_onevision, video_inputs
from vflowopt import Strategy
from vflowopt.errors import InputError
from vflowopt.plugins import find_adapter
from vflowopt_hf.search.sample_store import MemoryLimits, Parked, SampleStore, _ram

STRATEGIES = [
    Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.4, cell=2.5),
    Strategy.vflowopt(num_layers=LAYERS, retention=(0.7, 0.9, 0.4), threshold=0.0),
]


def samples(model):
    images = [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate([(42, 42), (80, 60), (30, 120)])]
    return [*images, video_inputs(3), image_inputs(model, [[(42, 42), (60, 30)]], seed=9)]


def spilled(store):
    return [isinstance(item, Parked) for item in store._items]


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_scores_are_the_same_bit_for_bit_however_many_samples_are_on_disk(kept):
    model = tiny_onevision()
    adapter, data = find_adapter(model), samples(model)
    whole = adapter.evaluator(model, data)
    room = sum(sample.nbytes for sample in whole.samples[:kept])
    bounded = adapter.evaluator(model, data, limits=MemoryLimits(host=room))
    assert spilled(whole.samples) == [False] * 5
    assert spilled(bounded.samples) == [False] * kept + [True] * (5 - kept)
    assert bounded.fingerprint == whole.fingerprint
    for strategy in STRATEGIES * 2:  # again, now that some of it is remembered
        assert bounded.outcomes(strategy).similarities == whole.outcomes(strategy).similarities
        assert bounded.evaluate(strategy) == whole.evaluate(strategy)


def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = tiny_onevision()
    evaluator = find_adapter(model).evaluator(model, samples(model)[:2], limits=MemoryLimits(host=0))
    evaluator.evaluate(STRATEGIES[0])
    (directory,) = tmp_path.iterdir()
    assert len(list(directory.iterdir())) == 2
    del evaluator
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_parked_samples_hold_no_memory_and_come_back_as_they_were(tmp_path):
    model = tiny_onevision()
    (sample,) = find_adapter(model).evaluator(model, samples(model)[:1]).samples
    before = {name: value.clone() for name, value in sample.call.items() if torch.is_tensor(value)}
    for parked in (Parked(sample, None), Parked(sample, tmp_path / "sample.pt")):
        outline = parked._outline
        assert outline.call["inputs_embeds"].is_meta
        assert outline.prefill.units[0].context.attention.keys[0].is_meta
        assert outline.tail == sample.tail
        back = parked.restore(parked.fetch())
        assert all(back.call[name].equal(value) for name, value in before.items())
        context = back.prefill.units[0].context
        rows = sample.prefill.units[0].rows
        assert context.entering.own.equal(before["inputs_embeds"][0, torch.from_numpy(rows)])


def test_what_is_the_same_tensor_stays_one_and_counts_once():
    model = tiny_onevision()
    (sample,) = find_adapter(model).evaluator(model, samples(model)[:1]).samples
    mask = torch.zeros(1, 1, 8, 8)
    twice = replace(sample, call=sample.call | {"attention_mask": {"full": mask, "sliding": mask}, "pair": [mask]})
    once = replace(sample, call=sample.call | {"attention_mask": {"full": mask}})
    assert twice.nbytes == once.nbytes
    moved = twice.mapped(torch.clone).call
    assert moved["attention_mask"]["full"] is moved["attention_mask"]["sliding"] is moved["pair"][0]
    assert moved["attention_mask"]["full"] is not mask


def test_only_what_the_objective_reads_is_kept_of_the_target():
    model = tiny_onevision()
    adapter, data = find_adapter(model), samples(model)[:1]
    rows = {"last-token": 1, "first-token": 1, "mean-pooling": 1, "top-3-tokens": 3}
    for objective, count in rows.items():
        target = adapter.evaluator(model, data, objective=objective).samples[0].target
        assert target.shape == (1, count, 48)
        assert target.untyped_storage().nbytes() == target.nbytes


def pixels_alive():
    gc.collect()
    return sum(type(o) is torch.Tensor and o.shape[-2:] == (CROP, CROP) for o in gc.get_objects())


def test_samples_are_looked_at_one_by_one_and_their_pixels_not_kept():
    model, counts = tiny_onevision(), []
    before = pixels_alive()

    def stream():
        for seed in range(3):
            counts.append(pixels_alive() - before)
            yield image_inputs(model, [[(80, 60)]], seed=seed)

    evaluator = find_adapter(model).evaluator(model, stream())
    assert counts == [0, 1, 1]  # the caller's own, until it is replaced by the next
    assert pixels_alive() == before
    assert len(evaluator.samples) == 3


def test_tiers_close_in_order():
    model = tiny_onevision()
    store = SampleStore(MemoryLimits(host=10**6))
    evaluator = find_adapter(model).evaluator(model, samples(model)[:2])
    small, large = sorted(evaluator.samples, key=lambda sample: sample.nbytes)
    store = SampleStore(MemoryLimits(host=small.nbytes))
    for sample in (large, small):
        store.append(sample)
    assert spilled(store) == [True, True]  # whatever fits later: the order alone decides
    assert [sample.nbytes for sample in store] == [large.nbytes, small.nbytes]
    assert [sample.nbytes for sample in store[1:]] == [small.nbytes]


def test_a_full_disk_is_one_clear_line(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    model = tiny_onevision()
    with pytest.raises(InputError, match=r"No space left on device; .*TMPDIR"):
        find_adapter(model).evaluator(model, samples(model)[:1], limits=MemoryLimits(host=0))


@pytest.mark.parametrize("limits", [{"host": -1}, {"device": "8GB"}])
def test_bad_limits(limits):
    with pytest.raises(InputError, match="must be a number of bytes"):
        MemoryLimits(**limits)


def test_default_limits(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = MemoryLimits().on_host()
    assert 0 < alone <= int(Path("/proc/meminfo").read_text().split()[1]) * 1024 // 2 + 4096
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert MemoryLimits().on_host() == alone // 4
    assert MemoryLimits(device=5, host=7).on_host() == 7
    assert MemoryLimits(device=5, host=7).on_device(torch.device("cuda")) == 5
    assert MemoryLimits(device=5, host=7).on_device(torch.device("cpu")) == 7


def test_a_containers_limit_counts(tmp_path):
    limit = tmp_path / "memory.max"
    machine = _ram(limit)
    for text, expected in (("4096\n", 4096), ("max\n", machine), (f"{2**62}\n", machine)):
        limit.write_text(text)
        assert _ram(limit) == expected
