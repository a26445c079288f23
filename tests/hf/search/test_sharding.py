"""One search in several processes: bit for bit the serial one, and no process ever waits in vain."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support import sharded_search
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy
from vflowopt.errors import InputError, ProcessError
from vflowopt.plugins import find_adapter
from vflowopt.search import search
from vflowopt.search.processes import Alone
from vflowopt_hf.search.process_exchange import held_interrupts
from vflowopt_hf.search.sharding import ProcessGroup, ShardedEvaluator, interleave, joined

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def serial():
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = tiny_onevision()
    yield find_adapter(model).evaluator(model, sharded_search.samples(model))
    torch.set_num_threads(torch_threads)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, serial):
    """Of one real launch of two processes."""
    directory = tmp_path_factory.mktemp("sharded")
    search(serial, **sharded_search.SETTINGS, iterations=0, journal=directory / "serial.jsonl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    script = Path(sharded_search.__file__)
    done = subprocess.run(
        [*command, str(script), str(directory)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert (directory / "found.json").exists(), done.stderr
    return directory


@pytest.fixture(scope="module")
def found(directory):
    return json.loads((directory / "found.json").read_text())


@pytest.fixture(scope="module")
def whole(serial):
    return search(serial, **sharded_search.SETTINGS, iterations=2).history


def test_fingerprint_units_and_lengths_are_those_of_all_samples(found, serial):
    assert found["about"] == [serial.fingerprint, [len(units) for units in serial.units], serial.lengths]
    assert len(set(serial.lengths)) > 3


def test_two_processes_go_on_with_the_journal_of_one_bit_for_bit(found, whole):
    assert found["goes on"] == [entry.score for entry in whole]


def test_one_process_goes_on_with_the_journal_of_two_bit_for_bit(found, directory, serial, whole):
    assert found["begins"] == 5
    path = directory / "sharded.jsonl"
    begun = path.read_bytes()
    assert search(serial, **sharded_search.SETTINGS, iterations=2, journal=path).history == whole
    assert path.read_bytes().startswith(begun)


def test_what_goes_wrong_in_one_process_ends_all_with_its_cause(found):
    assert found["unbuildable"] == "process 1 of 2 failed: MemoryError: no room for the model"
    assert found["misled"] == "the processes hold 3, 4 samples; give each processes.own(samples)"
    assert found["failed"] == "process 1 of 2 failed: RuntimeError: out of memory"
    assert found["interrupted"] == [True, 2]
    assert found["hung"].startswith("process 0 of 2 lost contact with the others: ")
    assert found["gone"].startswith("process 0 of 2 lost contact with the others: ")


def test_without_a_launch_a_process_is_alone():
    with joined() as processes:
        assert processes == Alone()
        assert processes.own([1, 2, 3]) == [1, 2, 3]


def test_every_process_has_a_share_of_samples():
    shares = [ProcessGroup(rank, 3, None).own("abcdefgh") for rank in range(3)]
    assert shares == ["adg", "beh", "cf"]
    assert "".join(interleave(shares)) == "abcdefgh"
    with pytest.raises(InputError, match="2 samples cannot be spread over 3 processes; launch fewer"):
        ProcessGroup(0, 3, None).own("ab")
    with pytest.raises(InputError, match="the processes hold 1, 2 samples"):
        interleave(["a", "bc"])


class Agreeing(ProcessGroup):
    """Pretends that the other processes said what this one did."""

    def exchange(self, value):
        return [value] * self.size


def test_batches_make_the_number_of_processes_part_of_the_fingerprint():
    model = tiny_onevision()
    data = [image_inputs(model, [[(42, 42)]])]

    def build(tokens):
        return find_adapter(model).evaluator(model, data, batch_tokens=tokens)

    groups = [Agreeing(0, size, None) for size in (1, 2)]
    alone, two = (ShardedEvaluator(group, lambda: build(0)) for group in groups)
    batched_alone, batched_two = (ShardedEvaluator(group, lambda: build(500)) for group in groups)
    assert alone.fingerprint == build(0).fingerprint
    assert two.fingerprint != batched_two.fingerprint
    assert batched_two._local.fingerprint == build(500).fingerprint
    assert batched_alone.fingerprint != build(500).fingerprint


def test_only_process_0_asks():
    model = tiny_onevision()
    data = [image_inputs(model, [[(42, 42)]])]
    evaluator = ShardedEvaluator(Agreeing(1, 2, None), lambda: find_adapter(model).evaluator(model, data))
    keep = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0))
    with pytest.raises(ProcessError, match="only process 0 asks"):
        evaluator.evaluate(keep)


def test_ctrl_c_is_held():
    import signal

    before = signal.getsignal(signal.SIGINT)
    with held_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before
