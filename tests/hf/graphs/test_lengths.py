"""Prompts whose text is of nearly equal length share a recording, and each gives what it gives eagerly."""

import importlib
import warnings

import pytest
import torch

from support import tiny
from support.alike import asking, other_numbers
from support.generating import on_static_caches
from support.repeats import repeats
from support.tiny import LAYERS, image_inputs, tiny_onevision, tiny_qwen2_decoder
from vflowopt import Progressive, Strategy
from vflowopt.components.mass import LogMass
from vflowopt.methods import PyramidDrop
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.graphs.store import Graphs, GraphsWarning
from vflowopt_hf.graphs.tape import Tape
from vflowopt_hf.pruning.session import Session
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_argument, cache_from

FAMILY = LlavaOnevision()
PLACEHOLDERS = {"image": tiny.IMAGE, "video": tiny.VIDEO}
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5, entropy_weight=0.5)
MASS = STRATEGY.model_copy(update={"mass": LogMass(gamma=0.7)})
BY_DECODER = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(2, 4), retention=(0.4, 0.5)))
EVERYTHING = Strategy.vflowopt(num_layers=LAYERS, retention=(1, 1, 1))
LENGTHS = (9, 31, 40, 32, 64, 4)
"""Tokens of the texts; those of 40 and 64 need a recording of their own."""

EXACT = 1e-5


def session(model, strategy=STRATEGY, recorder=None, family=FAMILY, statistics=None):
    statistics = family.pixel_statistics if statistics is None else statistics
    return Session(family, model, strategy, statistics, graphs=None if recorder is None else Graphs(recorder))


def questions(inputs, placeholders=PLACEHOLDERS, lengths=LENGTHS):
    """The same prompt with texts of some lengths and other pixels."""
    return [other_numbers(asking(inputs, placeholders, text), seed) for seed, text in enumerate(lengths)]


def asked(model, block, batches, **options):
    """Of each input output, plans, report, a continuation and its cache; a warning of graphs is an error."""
    found = []
    with block, torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*decoder", category=GraphsWarning)
        for inputs in batches:
            output = model(**inputs)
            plan, report = block.plan, block.report
            answer = model.generate(
                **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, **options
            )
            found.append((output, plan, report, answer))
    return found


def require_close(got, wanted):
    for (output, plans, report, answer), (expected, expected_plans, expected_report, told) in zip(
        got, wanted, strict=True
    ):
        assert output.logits.shape == expected.logits.shape
        assert (output.logits - expected.logits).abs().max() <= EXACT * expected.logits.abs().max()
        assert torch.equal(answer.sequences, told.sequences)
        assert report == expected_report
        for plan, other in zip(plans, expected_plans, strict=True):
            assert all((own == one).all() for own, one in zip(plan.kept, other.kept, strict=True))
        require_alike(cache_from(output), cache_from(expected))
        require_alike(cache_from(answer), cache_from(told))


def require_alike(cache, expected):
    """Both caches know the same, and hold the same keys and values to rounding."""
    assert cache.get_seq_length() == expected.get_seq_length()
    for layer, other in zip(cache.layers, expected.layers, strict=True):
        assert type(layer) is type(other)
        assert vars(layer).keys() == vars(other).keys()
        for name, value in vars(layer).items():
            one = getattr(other, name)
            if name in ("keys", "values"):
                assert value.shape == one.shape
                assert (value - one).abs().max() <= EXACT * one.abs().max()
            elif name == "known" and value is not None:
                for part in ("logical", "valid", "bias"):
                    own, wanted = getattr(value, part), getattr(one, part)
                    assert (own is None) == (wanted is None)
                    assert own is None or torch.allclose(own.float(), wanted.float(), atol=EXACT, rtol=0)
            elif name != "permit":  # one object for all layers of a cache
                assert value == one


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen3_vl"])
def test_families(name):
    """Rotary tables of one axis and of three; features that the decoder adds after its first layers."""
    subject = Subject(importlib.import_module(f"support.cases.{name}").CASE, "sdpa")
    batch, tape = subject.batch(subject.image(0)), Tape()
    batches = questions(batch.inputs, subject.family.placeholder_ids(subject.model), (9, 31, 40, 17))
    about = subject.family, subject.statistics
    block, eager = (session(subject.model, subject.strategy(batch), recorder, *about) for recorder in (tape, None))
    require_close(asked(subject.model, block, batches), asked(subject.model, eager, batches))
    assert tape.records == 3


@pytest.mark.parametrize(
    ("strategy", "attention"),
    [(EVERYTHING, "sdpa"), *repeats((STRATEGY, "sdpa"), (MASS, "eager"))],
    ids=["everything", "stages", "mass, eager"],
)
def test_a_recording_serves_all_lengths_up_to_the_next(strategy, attention):
    model, tape = tiny_onevision(attention), Tape()
    batches = questions(image_inputs(model, [[(80, 60)]]))
    got = asked(model, session(model, strategy, tape), batches)
    require_close(got, asked(model, session(model, strategy), batches))
    # Of the tower; of the decoder at two lengths, with positions from generate() and without.
    assert (tape.records, tape.replays) == (1 + 2 * 2, 11 + 2 * (3 + 1))


def test_sliding_windows():
    """The window of 20 tokens is shorter than the filler."""
    model, tape = tiny_qwen2_decoder(), Tape()
    batches = questions(image_inputs(model, [[(42, 42)]]))
    require_close(asked(model, session(model, STRATEGY, tape), batches), asked(model, session(model), batches))
    assert tape.records == 5


@pytest.mark.parametrize("build", [tiny_onevision, tiny_qwen2_decoder], ids=["full attention", "windows"])
def test_drafts_are_taken_back_from_a_cache_that_was_replayed(build):
    """Assisted decoding lets windows remember what leaves them before the prompt is processed."""
    model, tape = build(), Tape()
    batches = questions(image_inputs(model, [[(42, 42)]]), lengths=(9, 9, 9, 12))
    drafting = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    got = asked(model, session(model, STRATEGY, tape), batches, **drafting)
    require_close(got, asked(model, session(model), batches, **drafting))
    assert tape.records == 3


def test_static_caches():
    model, tape = tiny_onevision(), Tape()
    batches = questions(image_inputs(model, [[(80, 60)]]), lengths=(9, 31, 4))

    got = on_static_caches(model, session(model, STRATEGY, tape), batches)
    wanted = on_static_caches(model, session(model), batches)
    for (tokens, cache), (answer, expected) in zip(got, wanted, strict=True):
        assert torch.equal(tokens, answer)
        require_alike(cache, expected)
    assert tape.records == 2


def test_a_batch_goes_on_with_what_was_replayed():
    model, tape = tiny_onevision(), Tape()
    one = image_inputs(model, [[(42, 42)]])
    batches = questions({name: torch.cat([value, value]) for name, value in one.items()}, lengths=(9, 31, 4))
    more = torch.randint(10, 60, (2, 4), generator=torch.Generator().manual_seed(1))

    def second_turns(block):
        with block, torch.no_grad():
            for inputs in batches:
                cache = cache_from(model(**inputs))
                cache.crop(-2)
                yield model(more, **{cache_argument(model): cache}).logits

    for logits, expected in zip(
        second_turns(session(model, STRATEGY, tape)), list(second_turns(session(model))), strict=True
    ):
        assert (logits - expected).abs().max() <= EXACT * expected.abs().max()
    assert tape.records == 2


@pytest.mark.parametrize(
    ("strategy", "options"),
    [(BY_DECODER, {}), (STRATEGY, {"output_hidden_states": True})],
    ids=["the text is read", "all hidden states"],
)
def test_lengths_that_cannot_share_a_recording(strategy, options):
    model, tape = tiny_onevision(), Tape()
    batches = [inputs | options for inputs in questions(image_inputs(model, [[(42, 42)]]), lengths=(9, 12, 9, 12, 9))]

    def outputs(block):
        with block, torch.no_grad():
            return [model(**inputs) for inputs in batches]

    got, wanted = outputs(session(model, strategy, tape)), outputs(session(model, strategy))
    for output, expected in zip(got, wanted, strict=True):
        assert torch.equal(output.logits, expected.logits)
        for states, others in zip(output.hidden_states or (), expected.hidden_states or (), strict=True):
            assert torch.equal(states, others)
    assert tape.records == 3
