"""Decoder layers that reuse the keys of earlier ones, and take inputs of their own (Gemma 4 E2B)."""

import functools
from dataclasses import replace

import pytest
import torch

from support.cases import gemma4, gemma4_e2b
from support.conversation import Conversation
from vflowopt import Progressive, Strategy
from vflowopt.arrays import to_numpy
from vflowopt.errors import StrategyError, UnsupportedOperationError
from vflowopt.methods import DensityPeaks, PyramidDrop
from vflowopt_hf.decoder.layer_kinds import attending_layers, keys_of
from vflowopt_hf.decoder.shared_keys import require_reusable
from vflowopt_hf.testing.batches import Batch
from vflowopt_hf.testing.generation import EXACT, generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject

LATE = (0, 2, 4)
"""Stages: layers 1 and 2 hand their keys to layers 3 to 5."""


@functools.cache
def subject(attention="sdpa"):
    return Subject(gemma4_e2b.CASE, attention)


def of(**text):
    """A model that differs a little."""
    own = Subject(gemma4_e2b.CASE, "sdpa")
    own.model = gemma4.tiny_gemma4("sdpa", **gemma4_e2b.SMALL, **text)
    return own


def rows_of_layers(own, strategy, call):
    """How many rows every layer runs with."""
    rows = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, hidden: rows.append(hidden.shape[1]))
        for layer in own.family.decoder(own.model).layers
    ]
    try:
        with own.prune(strategy), torch.no_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return rows


def test_each_layer_reuses_the_keys_of_the_last_one_of_its_kind():
    config = subject().model.config.text_config
    assert [keys_of(config, layer) for layer in range(6)] == [0, 1, 2, 1, 1, 2]


def test_before_the_first_layer_it_is_upstreams_decoder_on_fewer_rows():
    """No oracle: the retained embeddings, at the positions that they have unpruned; no window ends in the prompt."""
    own = of(sliding_window=4096)
    batch = own.batch(own.image(1))
    model, inputs, rows = own.model, batch.inputs, batch.placed[0].rows
    with own.prune(own.strategy(batch, (0,), cell=None)) as pruning, torch.no_grad():
        found = model(**inputs).logits[:, -1]
        (plan,) = pruning.plan
    ids = inputs["input_ids"]
    left = torch.ones(ids.shape[1], dtype=torch.bool)
    left[rows] = False
    left[rows[to_numpy(plan.kept[0])]] = True
    decoder = model.model.language_model
    with torch.no_grad():
        features = model.model.get_image_features(batch.pixels["pixel_values"], batch.pixels["image_position_ids"])
        text = torch.where(ids == gemma4.IMAGE, gemma4.PAD, ids)
        embeddings = model.get_input_embeddings()(text)
        embeddings[0, rows] = torch.cat(list(features.pooler_output))
        output = decoder(
            inputs_embeds=embeddings[:, left],
            per_layer_inputs=decoder.get_per_layer_inputs(text)[:, left],
            position_ids=torch.arange(ids.shape[1])[None, left],
        )
        expected = model.lm_head(output.last_hidden_state)[:, -1]
    assert (found - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("kept", [1, 3, 12])
def test_the_last_logits_are_those_of_a_forward_that_asks_for_all(kept):
    """Upstream runs the layers that reuse keys with the last rows alone; 12 reach back to retained visual tokens."""
    own = subject()
    batch = own.batch(own.image(1))
    strategy = own.strategy(batch, LATE)
    with own.prune(strategy), torch.no_grad():
        everything = own.model(**batch.inputs).logits
        last = own.model(**batch.inputs, logits_to_keep=kept).logits
    assert last.shape[1] == kept
    assert (last - everything[:, -kept:]).abs().max() <= 1e-6


def test_without_shared_keys_no_more_logits_than_asked_for():
    own = Subject(gemma4.CASE, "sdpa")
    batch = own.batch(own.image(1))
    with own.prune(own.strategy(batch)), torch.no_grad():
        everything = own.model(**batch.inputs).logits
        last = own.model(**batch.inputs, logits_to_keep=2).logits
    assert last.shape[1] == 2
    assert (last - everything[:, -2:]).abs().max() <= 1e-6


def test_layers_that_reuse_keys_run_with_one_row_unless_a_stage_is_decided_there():
    own = subject()
    batch = own.batch(own.image(1))
    rows = rows_of_layers(own, own.strategy(batch, LATE), lambda: generate(own, batch.inputs, 1))
    assert rows[3:] == [1, 1, 1]
    assert rows[0] == rows[1] > rows[2] > 1
    merging = own.strategy(batch, LATE).model_copy(update={"recycler": DensityPeaks()})
    rows = rows_of_layers(own, merging, lambda: generate(own, batch.inputs, 1))
    assert rows[2] == rows[3] > rows[4] == rows[5] > 1


@pytest.mark.parametrize("samples", ["one", "ragged"])
def test_stages_that_merge_behind_the_shared_keys(samples):
    own = subject()
    batch = own.batch(*([own.image(1)] if samples == "one" else own.ragged()))
    merging = own.strategy(batch, LATE).model_copy(update={"recycler": DensityPeaks()})
    with own.prune(merging) as pruning:
        output = generate(own, batch.inputs, 6)
    require_oracle_logits(Oracle(own, batch, [plan.to_host() for plan in pruning.plan]), output, samples)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_image_in_a_later_turn(attention):
    """Queries and keys are fewer by different tokens then: those of both turns."""
    own = subject(attention)
    first, second = own.batch(own.image(1)), own.batch(own.image(2))
    with own.prune(own.strategy(first, LATE)) as pruning:
        talk = Conversation(own, first.inputs)
        plans = [plan.to_host() for plan in pruning.plan]
        found = talk.add(second.inputs)
        plans += [plan.to_host() for plan in pruning.plan]
        after = talk.write([11, 12, 13])
    length = first.inputs["input_ids"].shape[1]
    placed = (*first.placed, *(replace(entry, rows=entry.rows + length) for entry in second.placed))
    pixels = {name: torch.cat([first.pixels[name], second.pixels[name]]) for name in first.pixels}
    texts = {name: torch.cat([first.inputs[name], second.inputs[name]], dim=1) for name in talk.text}
    whole = Batch({**texts, **pixels}, pixels, placed)
    logits = Oracle(own, whole, plans).logits(talk.text["input_ids"])
    assert (found - logits[:, -4]).abs().max() <= EXACT
    assert (after - logits[:, -1]).abs().max() <= EXACT


@pytest.mark.parametrize("samples", ["one", "ragged"])
def test_static_caches_of_layers_without_windows_give_what_dynamic_ones_give(samples):
    own = of(layer_types=["full_attention"] * 6)
    batch = own.batch(*([own.image(1)] if samples == "one" else own.ragged()))
    with own.prune(own.strategy(batch, LATE)):
        dynamic = generate(own, batch.inputs, 8)
        static = generate(own, batch.inputs, 8, cache_implementation="static")
    assert torch.equal(static.sequences, dynamic.sequences)
    for got, expected in zip(static.logits, dynamic.logits, strict=True):
        assert (got - expected).abs().max() <= EXACT


def test_attention_ranks_before_the_layers_that_reuse_keys():
    config = subject().model.config.text_config
    assert attending_layers(config, (4,)) == {2: 5}
    with pytest.raises(
        StrategyError, match=r"decoder layers 3 to 4 reuse the keys of earlier ones; use another scorer"
    ):
        attending_layers(config, (2, 4))
    own = subject()
    batch = own.batch(own.image(1))
    ranked = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(1, 5), retention=(0.6, 0.5)))
    with own.prune(ranked) as pruning:
        output = generate(own, batch.inputs, 6)
    require_oracle_logits(Oracle(own, batch, [plan.to_host() for plan in pruning.plan]), output, "PyramidDrop")


def test_attention_without_masks_of_queries_and_keys_is_refused():
    require_reusable("eager", 4)
    with pytest.raises(UnsupportedOperationError, match=r"layer 4 reuses keys of an earlier stage.*flash_attention_2"):
        require_reusable("flash_attention_2", 4)
