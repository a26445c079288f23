"""Cutting a pruned cache within the text after the last image leaves what a shorter prompt would have left."""

import copy
import functools
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StaticCache

from support.cases import gemma3, llava_onevision, qwen2_vl
from support.conversation import Conversation, shortened
from support.waiting import Waits
from vflowopt.errors import PruningStateError, UnsupportedOperationError
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import with_cache

CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE, "gemma3": gemma3.CASE}
STAGES = {"from the first layer": None, "inside the decoder": (2, 4)}
EXACT = 1e-5
WORDS = st.lists(st.integers(10, 40), min_size=1, max_size=4)
families = pytest.mark.parametrize("family", CASES)
stages = pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def tail_of(batch):
    """Text tokens at the end of every sample."""
    return batch.inputs["input_ids"].shape[1] - 1 - max(int(placed.rows[-1]) for placed in batch.placed)


def batches(own):
    return {"several images": own.batch(own.several()), "ragged": own.batch(*own.ragged())}


@pytest.mark.parametrize("size", ["several images", "ragged"])
@stages
@families
@settings(max_examples=4)
@given(data=st.data())
def test_any_cuts_and_continuations_equal_the_shorter_prompt(family, stages, size, data):
    own = subject(family)
    batch = batches(own)[size]
    with own.prune(own.strategy(batch, stages)):
        found, written, tail = Conversation(own, batch.inputs), [], tail_of(batch)
        for round_ in range(data.draw(st.integers(1, 3))):
            words = data.draw(WORDS)
            found.write(words)
            written += words
            moved_on = any(found.cache.is_sliding) and round_ > 0  # windows forget what was before the last cut
            gone = data.draw(st.integers(0, len(words) if moved_on else tail + len(written)))
            found.cut(gone)
            kept = max(0, len(written) - gone)
            written, tail = written[:kept], tail - max(0, gone - len(written))
        expected = Conversation(own, shortened(batch.inputs, tail_of(batch) - tail))
        for word in written:
            expected.write([word])
        assert found.lengths() == expected.lengths()
        difference = (found.write([11]) - expected.write([11])).abs().max()
    assert difference <= EXACT


@stages
@families
def test_a_new_image_follows_a_cut_and_its_text_is_cut_again(family, stages):
    own = subject(family)
    first, second = own.batch(own.image(0)), own.batch(own.image(1))
    with own.prune(own.strategy(first, stages)):
        found = Conversation(own, first.inputs)
        found.write([20, 21])
        found.cut(4)
        found.add(second.inputs)
        found.cut(3)
        expected = Conversation(own, shortened(first.inputs, 2))
        expected.add(shortened(second.inputs, 3))
        assert found.lengths() == expected.lengths()
        difference = (found.write([11]) - expected.write([11])).abs().max()
    assert difference <= EXACT


@stages
@families
def test_a_cut_that_reaches_an_image_is_refused_and_changes_no_layer(family, stages):
    own = subject(family)
    batch = own.batch(own.several())
    with own.prune(own.strategy(batch, stages)):
        found = Conversation(own, batch.inputs)
        found.write([20, 21])
        before = found.lengths()
        most = tail_of(batch) + 2
        with pytest.raises(
            UnsupportedOperationError, match=f"cannot remove {most + 1} tokens .* only the last {most},"
        ):
            found.cut(most + 1)
        assert found.lengths() == before
        found.cut(most)
        with pytest.raises(UnsupportedOperationError, match="only the last 0,"):
            found.cut(1)


@families
def test_padding_on_the_right_cannot_be_cut(family):
    """It is not stored, so the last stored tokens are not the last ones."""
    own = subject(family)
    batch = own.batch(own.image(0))
    inputs = {name: torch.cat([part, part[:, -2:]], dim=1) if part.shape == batch.inputs["input_ids"].shape else part
              for name, part in batch.inputs.items()}  # fmt: skip
    inputs["attention_mask"][:, -2:] = 0
    with own.prune(own.strategy(batch)):
        found = Conversation(own, inputs)
        with pytest.raises(UnsupportedOperationError, match="only the last 0,"):
            found.cut(1)
        found.write([20])
        found.cut(1)


@stages
def test_a_static_cache_is_cut_likewise(stages):
    own = subject("onevision")
    batch = own.batch(own.several(), own.image(0))
    with own.prune(own.strategy(batch, stages)):
        config = own.family.decoder(own.model).config
        found = Conversation(own, batch.inputs, StaticCache(config=config, max_cache_len=512))
        found.write([20])
        found.write([21])
        found.cut(4)
        expected = Conversation(own, shortened(batch.inputs, 2), StaticCache(config=config, max_cache_len=512))
        assert found.lengths() == expected.lengths()
        for words in ([11], [12]):
            assert (found.write(words) - expected.write(words)).abs().max() <= EXACT
        before = found.lengths()
        with pytest.raises(UnsupportedOperationError, match="cannot remove 40 tokens"):
            found.cut(40)
        with pytest.raises(ValueError, match="negative number, not 1"):
            found.cut(-1)
        assert found.lengths() == before


def test_a_cut_waits_for_nothing():
    own = subject("gemma3")
    batch = own.batch(*own.ragged())
    with own.prune(own.strategy(batch)):
        found = Conversation(own, batch.inputs)
        found.write([20, 21])
        with Waits() as waits:
            waits.recording = True
            found.cache.crop(-3)
    assert not waits.found


@stages
@families
def test_questions_on_copies_of_one_prefill(family, stages):
    """Prefilled once, then copied, pickled or saved for every question; the original is left as it is."""
    own = subject(family)
    batch = own.batch(own.several())

    def saved(cache):
        file = io.BytesIO()
        torch.save(cache, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    with own.prune(own.strategy(batch, stages)):
        prefix = Conversation(own, batch.inputs)
        before = prefix.lengths()
        for words, copied in (([20, 21], copy.deepcopy), ([30], copy.deepcopy), ([31, 32], saved)):
            asked = copy.copy(prefix)
            asked.cache = copied(prefix.cache)
            expected = Conversation(own, batch.inputs).write(words)
            assert torch.equal(asked.write(words), expected)
            assert prefix.lengths() == before
    step = with_cache(own.model, {"input_ids": torch.tensor([[20]])}, copy.deepcopy(prefix.cache))
    with pytest.raises(PruningStateError, match="only be continued inside"):
        own.model(**step)


@stages
@families
def test_nothing_is_lost_by_trying_outside_the_block(family, stages):
    """Not even in layers before the first stage, whose cache lacks nothing."""
    own = subject(family)
    batch = own.batch(own.several())
    with own.prune(own.strategy(batch, stages)):
        found, expected = Conversation(own, batch.inputs), Conversation(own, batch.inputs)
    before = found.lengths()
    with pytest.raises(PruningStateError, match="only be continued inside"):
        found.write([20])
    found.text = expected.text
    assert found.lengths() == before
    with own.prune(own.strategy(batch, stages)):
        assert torch.equal(found.write([20]), expected.write([20]))


@stages
@pytest.mark.parametrize("family", ["onevision", "gemma3"])
def test_samples_are_selected_and_repeated(family, stages):
    own = subject(family)
    batch, order = own.batch(*own.ragged()), [2, 0]
    with own.prune(own.strategy(batch, stages)):
        found, every = Conversation(own, batch.inputs), Conversation(own, batch.inputs).write([20])
        found.cache.batch_select_indices(torch.tensor(order))
        found.cache.batch_repeat_interleave(2)
        order = [sample for sample in order for _ in range(2)]
        found.text = {name: part[order] for name, part in found.text.items()}
        assert (found.write([20]) - every[order]).abs().max() <= EXACT
