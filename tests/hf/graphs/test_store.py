"""What is recorded when, kept for how long, and refused."""

import threading
import warnings

import numpy as np
import pytest
import torch

from vflowopt.errors import InputError
from vflowopt_hf.graphs.store import Graphs, GraphsWarning
from vflowopt_hf.graphs.tape import Tape
from vflowopt_hf.graphs.watch import UnrecordableError


def squared(numbers):
    return {"square": numbers @ numbers, "constant": 3}


def numbers(seed, size=4):
    return torch.rand(size, size, generator=torch.Generator().manual_seed(seed))


def asked(graphs, key, tensor, function=squared):
    """What a caller does: eagerly at first, by the recording from the second time on."""
    with torch.no_grad():
        return graphs.run("tower", key, tensor, function) if graphs.is_due("tower", key) else function(tensor)


def test_the_second_time_is_recorded_and_what_was_given_out_stays():
    tape = Tape()
    graphs = Graphs(tape)
    given, counts = [], []
    for seed in range(5):
        given.append(asked(graphs, "key", numbers(seed)))
        counts.append((tape.records, tape.replays))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3), (1, 4)]
    for seed, result in enumerate(given):
        assert torch.equal(result["square"], numbers(seed) @ numbers(seed))
        assert result["constant"] == 3


def test_results_made_in_inference_mode_serve_outside_of_it():
    graphs = Graphs(Tape())
    with torch.inference_mode():
        asked(graphs, "key", numbers(0))
        asked(graphs, "key", numbers(1))
    result = asked(graphs, "key", numbers(2))["square"]
    result += 1
    assert torch.equal(result, numbers(2) @ numbers(2) + 1)


def test_the_least_recently_used_goes_first():
    tape = Tape()
    graphs = Graphs(tape, most=2)
    for key in "aabbacc":  # a, then b are recorded; a is used again; c takes the place of b
        asked(graphs, key, numbers(0))
    assert (len(graphs), tape.records) == (2, 3)
    asked(graphs, "a", numbers(0))
    assert tape.records == 3
    asked(graphs, "b", numbers(0))
    asked(graphs, "b", numbers(0))
    assert tape.records == 4


def test_all_go_when_they_take_too_much_memory():
    one = numbers(0).nbytes
    tape = Tape()
    graphs = Graphs(tape, most_bytes=3 * one)
    for key in "aabbccdd":
        asked(graphs, key, numbers(0))
    assert (len(graphs), tape.records) == (1, 5)  # the fourth, too much, is made a second time
    assert torch.equal(asked(graphs, "d", numbers(1))["square"], numbers(1) @ numbers(1))


@pytest.mark.parametrize("kept", [0, 1])
def test_what_takes_too_much_beside_one_other_is_refused(kept):
    graphs = Graphs(Tape(), most_bytes=numbers(0).nbytes)
    for key in "aa"[: 2 * kept]:
        asked(graphs, key, numbers(0))
    with pytest.raises(UnrecordableError, match="take more than 0 MiB"):
        graphs.run("decoder", "b", numbers(0), lambda tensor: tensor @ tensor @ tensor)
    assert not graphs.is_due("decoder", "b")
    assert len(graphs) == kept


def test_what_cannot_be_recorded_is_not_tried_again_and_said_once():
    graphs = Graphs(Tape())
    assert not graphs.is_due("tower", "c")
    with pytest.raises(UnrecordableError, match="waits for the device"):
        graphs.run("tower", "a", numbers(0), lambda tensor: tensor.sum().item())
    assert not graphs.is_due("tower", "c")
    with pytest.warns(GraphsWarning, match="the tower runs eagerly, as it waits"):
        graphs.fall_back("tower", "it waits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs.fall_back("tower", "it waits")


def test_a_wrong_input_is_no_reason_to_stop_recording():
    graphs = Graphs(Tape())

    def refuse(_):
        raise InputError("wrong")

    with pytest.raises(InputError):
        graphs.run("tower", "a", numbers(0), refuse)
    assert torch.equal(graphs.run("tower", "a", numbers(1), squared)["square"], numbers(1) @ numbers(1))


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (lambda tensor: tensor.sum().item(), "waits"),
        (lambda tensor: bool((tensor > 2).any()), "waits"),
        (lambda tensor: tensor.nonzero(), "nonzero waits"),
        (lambda tensor: tensor[tensor > 0.5], "index waits"),
        (lambda tensor: (2 * tensor).tolist(), "waits"),
        (lambda tensor: np.asarray(2 * tensor), "waits"),
        (lambda tensor: tensor + WEIGHT.add_(1), "changes a tensor that others use"),
    ],
)
def test_what_a_graph_cannot_hold(work, what):
    before = WEIGHT.clone()
    with pytest.raises(UnrecordableError, match=what):
        Graphs(Tape()).run("tower", "a", numbers(0), work)
    assert torch.equal(WEIGHT, before)


def is_whole(tensor):
    return tensor.dtype == torch.int64


def test_what_follows_from_the_key_alone_may_be_waited_for():
    """Sizes, as a tower reads them that packs pictures into one sequence."""
    tape, sizes = Tape(), torch.tensor([3, 1])
    graphs = Graphs(tape)

    def parts(inputs):
        own, sizes = inputs
        ends = torch.repeat_interleave(sizes, torch.ones_like(sizes)).cumsum(0)
        places = torch.arange(sizes.sum().item())
        first, last = own.split(sizes.tolist())
        return first.sum(0) * last[0] + own[places[places != 2]].sum() + ends

    def asked_for(seed, sizes):
        return graphs.run("tower", tuple(sizes.tolist()), (numbers(seed)[:, :2], sizes), parts, is_whole)

    for seed, own in enumerate((sizes, sizes, sizes, sizes.flip(0), sizes)):
        assert torch.equal(asked_for(seed, own.clone()), parts((numbers(seed)[:, :2], own)))
    assert (tape.records, tape.replays) == (2, 5)


def test_what_follows_from_the_key_and_the_numbers_may_not():
    def work(inputs):
        own, sizes = inputs
        return (own[: sizes[0]] > 0.5).nonzero()

    with pytest.raises(UnrecordableError, match="nonzero waits"):
        Graphs(Tape()).run("tower", "a", (numbers(0), torch.tensor([3])), work, is_whole)


@pytest.mark.parametrize("by", [lambda own, _: own.round().long().sum(), lambda _, sizes: sizes])
def test_nor_be_changed(by):
    """Every replay would begin with what the last one, or the recording itself, has left."""

    def work(inputs):
        own, sizes = inputs
        places = torch.arange(3)
        first = own[places]
        return first, places.add_(by(own, sizes))

    with pytest.raises(UnrecordableError, match="changes a tensor that others use"):
        Graphs(Tape()).run("tower", "a", (numbers(0), torch.tensor([1])), work, is_whole)


WEIGHT = torch.ones(4, 4)


def test_threads_share_recordings():
    tape = Tape()
    graphs, wrong = Graphs(tape), []

    def ask(first):
        for seed in range(first, first + 20):
            size = 3 + seed % 3
            result = asked(graphs, size, numbers(seed, size))["square"]
            if not torch.equal(result, numbers(seed, size) @ numbers(seed, size)):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert tape.records == 3
