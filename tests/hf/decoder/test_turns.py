"""One cache over several turns of a batch whose samples differ in length: padding stands between the turns."""

import functools

import pytest

from support.cases import llava_onevision, qwen2_vl
from support.conversation import Conversation
from vflowopt_hf.testing.batches import Sample
from vflowopt_hf.testing.generation import EXACT
from vflowopt_hf.testing.subject import Subject

# Not Gemma 3: a sliding window counts the padding between turns, without pruning, too.
CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE}


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def turns_of(own):
    """Two samples with images; then text, an image in one of them, and text again. Lengths differ in every turn."""
    return (
        (own.image(0), own.image(1)),
        (Sample(seed=3), Sample(seed=5)),
        (Sample(seed=6), own.image(2)),
        (Sample(seed=9), Sample(seed=7)),
    )


@pytest.mark.parametrize("stages", [None, (2, 4)], ids=["from the first layer", "inside the decoder"])
@pytest.mark.parametrize("family", CASES)
def test_every_sample_goes_on_as_alone(family, stages):
    own = subject(family)
    turns = turns_of(own)
    with own.prune(own.strategy(own.batch(*turns[0]), stages)):
        first, *later = (own.batch(*samples).inputs for samples in turns)
        together = Conversation(own, first)
        found = [together.add(inputs) for inputs in later]
        assert not together.text["attention_mask"].all()
        for number in range(2):
            first, *later = (own.batch(samples[number]).inputs for samples in turns)
            alone = Conversation(own, first)
            for logits, inputs in zip(found, later, strict=True):
                assert (logits[number] - alone.add(inputs)[0]).abs().max() <= 2 * EXACT
