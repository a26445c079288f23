"""A model whose tower and decoder are replayed gives to the bit what it gives eagerly, and is as it was afterwards."""

import importlib
import threading
import warnings

import pytest
import torch

from support.alike import asking, other_numbers
from support.generating import on_static_caches
from support.repeats import repeats
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy
from vflowopt.components.mass import LogMass
from vflowopt.methods import FastV, PyramidDrop
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.graphs.store import Graphs, GraphsWarning
from vflowopt_hf.graphs.tape import Tape
from vflowopt_hf.pruning.session import Session
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_argument, cache_from

FAMILY = LlavaOnevision()
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5, entropy_weight=0.5)
MASS = STRATEGY.model_copy(update={"mass": LogMass(gamma=0.7)})
BY_DECODER = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(2, 4), retention=(0.4, 0.5)))
ANEW = MASS.model_copy(update={"rescorer": FastV()})
EVERYTHING = Strategy.vflowopt(num_layers=LAYERS, retention=(1, 1, 1))
TEXT = 30
"""With two tokens more that follow each image, prompts need no filler, which would round differently."""


@pytest.fixture(scope="module")
def model():
    return tiny_onevision()


def session(model, strategy=STRATEGY, recorder=None, family=FAMILY, statistics=None):
    statistics = family.pixel_statistics if statistics is None else statistics
    return Session(family, model, strategy, statistics, graphs=None if recorder is None else Graphs(recorder))


def several(inputs, count=4):
    return [other_numbers(inputs, seed) for seed in range(count)]


def asked(model, block, batches):
    """Of each input output, plans, report and a continuation; all are held until the last has been asked."""
    found = []
    with block, torch.no_grad():
        for inputs in batches:
            output = model(**inputs)
            found.append(
                (output, block.plan, block.report, model.generate(**inputs, max_new_tokens=3, do_sample=False))
            )
    return found


def states(cache):
    """All that a cache knows, tensors as lists."""
    return [
        {
            name: [None if part is None else part.tolist() for part in (value.logical, value.valid, value.bias)]
            if name == "known" and value is not None
            else value.tolist()
            if isinstance(value, torch.Tensor)
            else value
            for name, value in vars(layer).items()
            if name != "permit"  # one object for all layers of a cache
        }
        for layer in cache.layers
    ]


def require_same(got, wanted):
    for (output, plans, report, tokens), (expected, expected_plans, expected_report, answer) in zip(
        got, wanted, strict=True
    ):
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(tokens, answer)
        assert report == expected_report
        assert states(cache_from(output)) == states(cache_from(expected))
        for plan, other in zip(plans, expected_plans, strict=True):
            for name in ("importance", "anchor", "weight"):
                assert (getattr(plan, name) == getattr(other, name)).all()
            for name in ("kept", "mass", "bias"):
                pairs = zip(getattr(plan, name), getattr(other, name), strict=True)
                assert all((own == expected_one).all() for own, expected_one in pairs)


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", *repeats("llava", "llava_next_mistral", "qwen2_vl")])
def test_families(name):
    subject = Subject(importlib.import_module(f"support.cases.{name}").CASE, "sdpa")
    batch, tape = subject.batch(subject.image(0)), Tape()
    inputs = asking(batch.inputs, subject.family.placeholder_ids(subject.model), TEXT + 2)
    batches, strategy = several(inputs), subject.strategy(batch)
    eager, block = (
        session(subject.model, strategy, recorder, subject.family, subject.statistics) for recorder in (None, tape)
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GraphsWarning)
        got = asked(subject.model, block, batches)
    require_same(got, asked(subject.model, eager, batches))
    assert tape.records == 3  # of the decoder two: generate() hands it positions otherwise than a plain forward
    assert [str(one.message) for one in told] == []


@pytest.mark.parametrize(
    ("strategy", "attention"),
    [(MASS, "sdpa"), (MASS, "eager"), (BY_DECODER, "sdpa"), (ANEW, "sdpa"), (EVERYTHING, "sdpa")],
    ids=["mass", "mass, eager", "by decoder attention", "ranked anew", "everything"],
)
def test_strategies(strategy, attention):
    model, tape = tiny_onevision(attention), Tape()
    batches = several(image_inputs(model, [[(80, 60)]], text=TEXT), 3)
    got = asked(model, session(model, strategy, tape), batches)
    require_same(got, asked(model, session(model, strategy), batches))
    assert (tape.records, tape.replays) == (3, 9)


@pytest.mark.parametrize("strategy", [STRATEGY, MASS, EVERYTHING], ids=["stages", "mass", "everything"])
def test_static_caches(model, strategy):
    """With a mass, eager attention looks at the unused room as well, behind a mask: it rounds differently."""
    tape, batches = Tape(), several(image_inputs(model, [[(80, 60)]], text=TEXT), 3)

    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphsWarning)
        got = on_static_caches(model, session(model, strategy, tape), batches)
    for (tokens, cache), (answer, expected) in zip(
        got, on_static_caches(model, session(model, strategy), batches), strict=True
    ):
        assert torch.equal(tokens, answer)
        for layer, other in zip(cache.layers, expected.layers, strict=True):
            for name in ("keys", "values"):
                difference = (getattr(layer, name) - getattr(other, name)).abs().max()
                assert difference <= (1e-5 if strategy is MASS else 0)
                setattr(layer, name, getattr(other, name))
        assert states(cache) == states(expected)
    assert tape.records == 2


def test_a_batch_with_several_images(model):
    one = image_inputs(model, [[(80, 60)]], text=TEXT)
    tape, batches = Tape(), several({name: torch.cat([value, value]) for name, value in one.items()}, 3)
    require_same(asked(model, session(model, STRATEGY, tape), batches), asked(model, session(model), batches))
    assert tape.records == 3


def test_other_places_and_other_sizes_are_other_recordings(model):
    """Inputs of equal shapes, whose image begins elsewhere or was cut to another size."""
    inputs = image_inputs(model, [[(84, 80)]], text=62)
    moved = {**inputs, "input_ids": inputs["input_ids"].roll(32, dims=1)}
    tape, batches = Tape(), [*several(inputs, 3), *several(moved, 3), *several(inputs, 1)]
    require_same(asked(model, session(model, STRATEGY, tape), batches), asked(model, session(model), batches))
    assert tape.records == 5


def test_a_conversation_goes_on_with_what_was_replayed(model):
    inputs = several(image_inputs(model, [[(42, 42)]], text=TEXT), 3)
    more = torch.randint(10, 60, (1, 4), generator=torch.Generator().manual_seed(1))

    def second_turns(block):
        found = []
        with block, torch.no_grad():
            caches = [cache_from(model(**own)) for own in inputs]
            for own, cache in zip(inputs, caches, strict=True):
                ids = torch.cat([own["input_ids"], more], dim=1)
                found.append(model.generate(ids, max_new_tokens=4, do_sample=False, **{cache_argument(model): cache}))
        return torch.cat(found)

    got = second_turns(session(model, STRATEGY, Tape()))
    assert torch.equal(got, second_turns(session(model)))


def test_threads(model):
    batches = several(image_inputs(model, [[(42, 42)]], text=TEXT), 6)
    wanted, got = asked(model, session(model), batches), {}

    def ask(number):
        with torch.no_grad():
            got[number] = [model(**batches[number]).logits for _ in range(3)]

    with session(model, STRATEGY, Tape()):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, (output, *_) in enumerate(wanted):
        assert all(torch.equal(logits, output.logits) for logits in got[number])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda inputs: {"use_cache": False}, "no KV cache is kept (use_cache=False)"),
        (lambda inputs: {"attention_mask": first_hidden(inputs["attention_mask"])}, "prompts of the batch are padded"),
    ],
)
def test_what_runs_eagerly_says_so_once(model, change, why):
    inputs = image_inputs(model, [[(42, 42)]], text=TEXT)
    inputs |= change(inputs)
    with session(model), torch.no_grad():
        wanted = model(**inputs).logits
    with session(model, STRATEGY, Tape()), torch.no_grad(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GraphsWarning)
        for _ in range(3):
            assert torch.equal(model(**inputs).logits, wanted)
    assert [str(one.message) for one in told] == [f"graphs=True: the decoder runs eagerly, as {why}"]


def first_hidden(mask):
    return mask.index_fill(1, torch.tensor([0]), 0)


def test_gradients_flow_as_without(model):
    inputs = image_inputs(model, [[(42, 42)]], text=TEXT)
    with session(model, STRATEGY, Tape()):
        with pytest.warns(GraphsWarning, match="gradients are recorded"):
            first = model(**inputs).logits
        assert all(logits.requires_grad for logits in (first, *(model(**inputs).logits for _ in range(2))))


def test_what_cannot_be_recorded_runs_eagerly(model):
    """A layer that waits, found while recording."""
    layer, inputs = model.model.language_model.layers[3], image_inputs(model, [[(42, 42)]], text=TEXT)
    original, batches = layer.mlp.forward, several(inputs, 3)

    def waiting(hidden):
        return original(hidden) * (1 if hidden.sum().item() > 1e9 else 2)

    layer.mlp.forward = waiting
    try:
        tape = Tape()
        with pytest.warns(GraphsWarning, match="decoder runs eagerly, as item waits for the device"):
            got = asked(model, session(model, STRATEGY, tape), batches)
        require_same(got, asked(model, session(model), batches))
    finally:
        del layer.mlp.forward
    assert tape.records == 1


def test_changes_of_the_model_are_seen():
    model = tiny_onevision()
    inputs, seen = image_inputs(model, [[(42, 42)]], text=TEXT), []
    weight = model.model.language_model.layers[2].mlp.up_proj.weight

    def logits():
        with torch.no_grad():
            return model(**inputs).logits

    with session(model, STRATEGY, Tape()):
        for _ in range(3):
            before = logits()
        with torch.no_grad():
            weight.mul_(2)  # where it is
        changed = logits()
        model.model.language_model.layers[2].mlp.up_proj.weight = torch.nn.Parameter(weight.detach() / 2)
        back = [logits() for _ in range(3)]
        hook = model.model.language_model.layers[1].register_forward_hook(lambda *_: seen.append(1))
        with pytest.warns(GraphsWarning, match="somebody has put a hook on its Qwen2DecoderLayer"):
            hooked = [logits()]
        hooked += [logits() for _ in range(2)]
        hook.remove()
    assert not torch.equal(changed, before)
    assert all(torch.equal(one, before) for one in (*back, *hooked))
    assert len(seen) == 3


def test_afterwards_the_model_is_as_it_was_and_recordings_are_gone(model):
    inputs, tape = image_inputs(model, [[(42, 42)]], text=TEXT), Tape()
    decoder, tower = model.model.language_model, model.model.vision_tower
    before = dict(vars(decoder)), dict(vars(tower))
    block = session(model, STRATEGY, tape)
    for _ in range(2):
        with block, torch.no_grad():
            for _ in range(3):
                held = model(**inputs).logits
            copied = held.clone()
        assert tape.bytes == 0
        assert torch.equal(held, copied)
    assert (dict(vars(decoder)), dict(vars(tower))) == before
