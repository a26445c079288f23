"""Pruning without a block: from start() to stop(), with all that holds of a block."""

import copy
import gc

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import PruningStateError

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)


@pytest.fixture(scope="module")
def shared():
    """A model, an input, and its logits unpruned and pruned."""
    model = tiny_onevision()
    inputs = image_inputs(model, [[(80, 60)]])
    unpruned = logits(model, inputs)
    with prune(model, STRATEGY):
        return model, inputs, unpruned, logits(model, inputs)


@pytest.fixture
def model(shared):
    """It is left as it was found."""
    model, inputs, unpruned, _ = shared
    yield model
    assert torch.equal(logits(model, inputs), unpruned)


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


def test_from_start_to_stop_all_is_as_in_a_block(model, shared):
    _, inputs, unpruned, pruned = shared
    pruning = prune(model, STRATEGY)
    assert torch.equal(logits(model, inputs), unpruned)  # nothing has begun
    assert pruning.start() is pruning
    for _ in range(2):
        assert torch.equal(logits(model, inputs), pruned)
    assert pruning.report.units[0].counts == STRATEGY.schedule.counts(pruning.report.units[0].tokens)
    pruning.stop()
    assert torch.equal(logits(model, inputs), unpruned)
    assert len(pruning.plan) == 1  # still known


def test_starting_and_stopping_twice_and_again(model, shared):
    _, inputs, unpruned, pruned = shared
    pruning = prune(model, STRATEGY)
    pruning.stop()
    for _ in range(2):
        pruning.start().start()
        assert torch.equal(logits(model, inputs), pruned)
        pruning.stop()
        pruning.stop()
        assert torch.equal(logits(model, inputs), unpruned)
    with pruning:
        assert torch.equal(logits(model, inputs), pruned)
        pruning.stop()
        assert torch.equal(logits(model, inputs), unpruned)


def test_nesting_is_refused_however_it_began(model, shared):
    _, inputs, _, pruned = shared
    pruning = prune(model, STRATEGY).start()
    for another in (prune(model, STRATEGY).start, prune(model, STRATEGY).__enter__):
        with pytest.raises(PruningStateError, match=r"already or measured; leave the outer .* or call its stop\(\)"):
            another()
    with pytest.raises(PruningStateError, match=r"has begun already; leave `with` out, or call its stop\(\)"), pruning:
        pass
    assert torch.equal(logits(model, inputs), pruned)
    with pytest.raises(PruningStateError, match=r"call stop\(\)"):
        copy.deepcopy(model)
    pruning.stop()


def test_a_failed_forward_or_start_leaves_it_as_it_was(model, shared):
    _, inputs, _, pruned = shared
    pruning, other = prune(model, STRATEGY).start(), prune(model, STRATEGY)
    handle = model.model.language_model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(model, inputs)
    handle.remove()
    assert torch.equal(logits(model, inputs), pruned)
    with pytest.raises(PruningStateError):
        other.start()
    pruning.stop()
    with other:
        assert torch.equal(logits(model, inputs), pruned)


def test_it_lasts_though_nobody_keeps_it(model, shared):
    _, inputs, _, pruned = shared
    prune(model, STRATEGY).start()
    gc.collect()
    assert torch.equal(logits(model, inputs), pruned)
    with pytest.raises(PruningStateError) as refused:
        prune(model, STRATEGY).start()
    assert "being pruned already" in str(refused.value)
    (hook,) = model._forward_pre_hooks.values()
    hook.__self__.stop()


def test_a_model_in_a_wrapper(model, shared):
    _, inputs, unpruned, pruned = shared
    wrapped = torch.compile(model, backend="eager")
    pruning = prune(wrapped, STRATEGY).start()
    assert torch.equal(logits(wrapped, inputs), pruned)
    pruning.stop()
    assert torch.equal(logits(model, inputs), unpruned)


def test_specifications_and_budgets_in_place_of_a_strategy(model, shared):
    _, inputs, *_ = shared
    for source, budget in (("random@0.25", None), ("random", 0.25), (STRATEGY, 0.25), (0.25, None)):
        with prune(model, source, budget=budget) as pruning:
            logits(model, inputs)
        assert pruning.report.retention == pytest.approx(0.25, abs=0.01)


def test_it_reads_on_one_line(model):
    pruning = prune(model, "random@0.25")
    strategy = "Strategy(scorer=random(), schedule=progressive(stages=(0,), retention=(0.25,)))"
    assert repr(pruning) == f"<Pruning of a llava-onevision model, off: {strategy}>"
    with pruning:
        assert repr(pruning) == f"<Pruning of a llava-onevision model, on: {strategy}>"
