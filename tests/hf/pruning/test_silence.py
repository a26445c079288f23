"""No forward passes over the pruning without a word, and no report speaks of another forward than the last."""

import copy

import pytest
import torch
from transformers import DynamicCache

from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import InputError, PruningStateError, UnsupportedOperationError

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)


@pytest.fixture(scope="module")
def model():
    return tiny_onevision()


@pytest.fixture(scope="module")
def inputs(model):
    return image_inputs(model, [[(80, 60)]])


@pytest.fixture(scope="module")
def text(model):
    return image_inputs(model, [[]], text=20)


def merged(model, inputs):
    """Embeddings with the features in place, as callers make them who encode by themselves."""
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    return embeddings.masked_scatter((inputs["input_ids"] == IMAGE)[..., None], torch.cat(list(features)))


WAYS = {
    "model": lambda model, embeddings, mask: model(inputs_embeds=embeddings, attention_mask=mask),
    "backbone": lambda model, embeddings, mask: model.model(inputs_embeds=embeddings, attention_mask=mask),
    "decoder": lambda model, embeddings, mask: model.model.language_model(
        inputs_embeds=embeddings, attention_mask=mask
    ),
    "generate": lambda model, embeddings, mask: model.generate(
        inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=2, do_sample=False
    ),
    "forward without hooks": lambda model, embeddings, mask: model.model.forward(
        inputs_embeds=embeddings, attention_mask=mask
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoded", ["inside", "outside"])
def test_merged_embeddings(model, inputs, way, encoded):
    with torch.no_grad():
        outside = merged(model, inputs)
        with prune(model, STRATEGY):
            embeddings = merged(model, inputs) if encoded == "inside" else outside
            with pytest.raises(UnsupportedOperationError, match=f"{embeddings.shape[1]} tokens came as inputs_embeds"):
                WAYS[way](model, embeddings, inputs["attention_mask"])


def test_the_backbone_alone_is_pruned(model, inputs):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states[-1]
        got = model.model(**inputs)
        assert torch.equal(got.last_hidden_state, expected)
        positional = (inputs["input_ids"], inputs["pixel_values"], inputs["image_sizes"])
        assert torch.equal(model.model(*positional).last_hidden_state, expected)
        assert pruning.report.retention < 0.5


def test_a_step_may_come_as_an_embedding(model, inputs):
    with prune(model, STRATEGY), torch.no_grad():
        token, caches = torch.tensor([[7]]), []
        for _ in range(2):
            caches.append(model(**inputs, use_cache=True).past_key_values)
        expected = model(input_ids=token, past_key_values=caches[0]).logits
        got = model(inputs_embeds=model.get_input_embeddings()(token), past_key_values=caches[1]).logits
        assert torch.equal(got, expected)


@pytest.mark.parametrize("placeholder", [IMAGE, VIDEO])
def test_a_prompt_whose_pixels_were_left_out(model, inputs, placeholder):
    ids = inputs["input_ids"].clone()
    ids[ids == IMAGE] = placeholder
    found = int((ids == placeholder).sum())
    message = rf"holds {found} (image|video) tokens, but neither pixels nor features"
    with prune(model, STRATEGY), torch.no_grad(), pytest.raises(InputError, match=message):
        model(input_ids=ids)


def features(model, inputs):
    return model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])


def cut(output):
    output.pooler_output = [part[:-1] for part in output.pooler_output]
    output.pooler_output = [*output.pooler_output, output.pooler_output[0][:1]]
    return output


def emptied(output):
    output.pooler_output = []
    return output


def other(output):
    changed = copy.copy(output)
    changed.pooler_output = [part.clone() for part in output.pooler_output]
    return changed


def joined(output):
    changed = copy.copy(output)
    changed.pooler_output = [*output.pooler_output, *output.pooler_output]
    return changed


@pytest.mark.parametrize("change", [emptied, other, joined, cut])
def test_features_that_were_changed_since(model, inputs, change):
    with prune(model, STRATEGY), torch.no_grad():
        given = {"image": change(features(model, inputs))}
        with pytest.raises((UnsupportedOperationError, InputError), match=r"features|pixels make"):
            model(input_ids=inputs["input_ids"], mm_encoder_outputs=given)


def test_features_in_another_object(model, inputs):
    """As whoever moves or wraps outputs makes them; they are known by their tensors."""
    with prune(model, STRATEGY), torch.no_grad():
        expected, made = model(**inputs).logits, features(model, inputs)
        rewrapped = type(made)(pooler_output=list(made.pooler_output))
        del made
        got = model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": rewrapped}).logits
        assert torch.equal(got, expected)


def test_a_text_prompt_has_a_report_of_its_own(model, inputs, text):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model(**inputs)
        model(**text)
        report, length = pruning.report, text["input_ids"].shape[1]
        assert pruning.plan == []
    assert (report.units, report.retention) == ((), 1.0)
    assert (report.full_length, report.sequence_lengths) == (length, (length,) * LAYERS)
    assert report.kv_cache_bytes == report.kv_cache_bytes_unpruned


def test_what_continues_a_cache_is_no_prefill(model, inputs, text):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        cache = DynamicCache(config=model.config.text_config)
        model(**inputs, past_key_values=cache, use_cache=True)
        before = pruning.report
        mask = torch.cat([inputs["attention_mask"], text["attention_mask"]], dim=1)
        model(input_ids=text["input_ids"], attention_mask=mask, past_key_values=cache, use_cache=True)
        assert pruning.report == before
        mask = torch.cat([mask, inputs["attention_mask"]], dim=1)
        model(**{**inputs, "attention_mask": mask}, past_key_values=cache, use_cache=True)
        assert pruning.report.units == before.units  # of the second picture, which is the first once more


def test_a_prefill_that_failed_has_no_report(model, inputs):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model(**inputs)
        with pytest.raises(ValueError, match="do not match"):
            model(**{**inputs, "input_ids": inputs["input_ids"][:, :-20], "attention_mask": None})
        with pytest.raises(PruningStateError, match="ended before anything was planned"):
            _ = pruning.report
