"""Placeholders are found by upstream's own method, on the host: the same masks, the same refusals."""

import importlib

import pytest
import torch

from vflowopt_hf.testing.subject import Subject

FAMILIES = ["llava", "llava_next_video", "llava_onevision", "qwen2_vl", "qwen3_vl", "gemma3", "ovis2"]


def subject(family):
    return Subject(importlib.import_module(f"support.cases.{family}").CASE, "sdpa")


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_upstream(family):
    own = subject(family)
    backbone, batch = own.family.backbone(own.model), own.batch(own.image(0), own.image(1))
    ids, asked = batch.inputs["input_ids"], []
    embeddings = backbone.get_input_embeddings()(ids).detach()
    image = embeddings[placeholders(own, ids)]
    wanted = backbone.get_placeholder_mask(ids, embeddings, image_features=image)

    with torch.no_grad(), own.prune(own.strategy(batch)):
        method = backbone.get_placeholder_mask

        def noted(*args, **kwargs):
            asked.append(method(*args, **kwargs))
            return asked[-1]

        backbone.get_placeholder_mask = noted
        own.model(**batch.inputs)
        backbone.get_placeholder_mask = method
    for masks, expected in zip(parts(asked[0]), parts(wanted), strict=True):
        assert torch.equal(masks.expand_as(embeddings), expected.expand_as(embeddings))


def parts(masks):
    return masks if isinstance(masks, tuple) else (masks,)


def placeholders(own, ids):
    return ids == own.family.placeholder_ids(own.model)["image"]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_do_not_fit_are_refused_as_without_pruning(family):
    own = subject(family)
    batch = own.batch(own.image(0))
    ids = batch.inputs["input_ids"].clone()
    ids[0, int(placeholders(own, ids)[0].nonzero()[0])] = own.case.first_word
    with pytest.raises(ValueError, match="tokens: ") as unpruned, torch.no_grad():
        own.model(**batch.inputs | {"input_ids": ids})
    with own.prune(own.strategy(batch)), torch.no_grad(), pytest.raises(type(unpruned.value)) as pruned:
        own.model(**batch.inputs | {"input_ids": ids})
    assert str(pruned.value).partition(", features")[0] == str(unpruned.value).partition(", features")[0]
