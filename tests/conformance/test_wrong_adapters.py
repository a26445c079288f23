"""Adapters with one mistake each: the kit finds it, by the right check, and says what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from support.cases.internvl import CASE as INTERNVL
from support.cases.llava_onevision import CASE as ONEVISION
from support.cases.qwen2_vl import CASE as QWEN
from support.cases.qwen3_5 import CASE as QWEN35
from support.cases.qwen3_vl import CASE as QWEN3
from support.tiny import sharpen, tiny_onevision
from vflowopt import TokenLayout
from vflowopt.testing import ConformanceError
from vflowopt_hf.families.internvl import InternVL
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.testing import Case, conformance
from vflowopt_hf.testing.batches import Sample, noise
from vflowopt_hf.testing.subject import Subject
from vflowopt_qwen.qwen2_vl import Qwen2VL
from vflowopt_qwen.qwen3_vl import Qwen3VL


def changing_units(base: type, change: Callable[[Any, Any], Any]) -> Any:
    """An instance of a family whose units are changed by (model, unit) -> unit."""

    class Wrong(base):
        def units(self, model, modality, arguments):
            return [change(model, unit) for unit in super().units(model, modality, arguments)]

    return Wrong()


def with_positions(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, Any], Any]:
    return lambda model, unit: replace(unit, layout=TokenLayout(change(unit.layout.position.copy())))


@with_positions
def rows_rolled(position):
    real = position[:, 0] >= 0
    for view in np.unique(position[real, 0]):
        rows = position[position[:, 0] == view, 1]
        position[position[:, 0] == view, 1] = (rows - 2) % (rows.max() + 1)
    return position


@with_positions
def transposed(position):
    return position[:, [0, 2, 1]]


@with_positions
def rows_with_a_gap(position):
    position[position[:, 1] > 0, 1] += 1
    return position


@with_positions
def newlines_as_patches(position):
    """Every separator continues its row, as if it were one more column."""
    for token in np.flatnonzero(position[:, 0] < 0):
        position[token] = position[token - 1] + (0, 0, 1)
    return position


@with_positions
def patch_as_separator(position):
    position[3] = -1
    return position


@with_positions
def frames_reversed(position):
    position[:, 0] = position[:, 0].max() - position[:, 0]
    return position


def one_token_short(model, unit):
    return replace(unit, layout=TokenLayout(unit.layout.position[:-1]), to_tokens=lambda m: unit.to_tokens(m)[:-1])


def merged_in_raster_order(model, unit):
    """The patches of a token follow each other in the tower; here they are taken for rows of the image."""
    _, rows, columns = unit.layout.position.max(axis=0) + 1

    def to_tokens(patch_map):
        image = patch_map.reshape(-1, rows, 2, columns, 2)
        return image.mean(dim=(2, 4)).flatten()

    return replace(unit, to_tokens=to_tokens)


def entropy_in_raster_order(model, unit):
    _, rows, columns = unit.layout.position.max(axis=0) + 1

    def entropy(statistics):
        blocks = unit.entropy(statistics).reshape(-1, rows, columns, 2, 2)
        return blocks.transpose(2, 3).flatten(1)

    return replace(unit, entropy=entropy)


def entropy_of_half_patches(model, unit):
    """As if patches were half as wide: twice as many values."""
    return replace(unit, entropy=lambda statistics: unit.entropy(statistics).repeat_interleave(2, dim=1))


def crops_exchanged(model, unit):
    if unit.views.stop - unit.views.start < 3:
        return unit
    return replace(unit, to_tokens=lambda m: unit.to_tokens(torch.cat([m[:1], m[1:].flip(0)])))


def newline_scored(model, unit):
    structural = torch.from_numpy(unit.layout.structural)
    return replace(unit, to_tokens=lambda m: torch.where(structural, m.mean(), unit.to_tokens(m)))


class Early(LlavaOnevision):
    def vision_attention(self, model):
        return model.model.vision_tower.encoder.layers[0].self_attn


class Late(LlavaOnevision):
    def vision_attention(self, model):
        return model.model.vision_tower.encoder.layers[-1].self_attn


class CropsApart(InternVL):
    def tokens_per_unit(self, model, modality, ids):
        return None


class ImagesTogether(InternVL):
    def tokens_per_unit(self, model, modality, ids):
        return [sum(super().tokens_per_unit(model, modality, ids))]


class WrongDecoder(LlavaOnevision):
    def decoder(self, model):
        return model.model.multi_modal_projector


class WrongPlaceholder(LlavaOnevision):
    def placeholder_ids(self, model):
        return super().placeholder_ids(model) | {"image": 4}


class NoResiduals(Qwen3VL):
    """Leaves the features of earlier depths to the decoder, which has fewer rows by then."""

    def take_residuals(self, arguments):
        return None


class LostResiduals(Qwen3VL):
    """Takes the features of earlier depths away and never gives them back."""

    def take_residuals(self, arguments):
        super().take_residuals(arguments)


class NoClassToken(LlavaOnevision):
    class_tokens = 0


class TooManyClassTokens(LlavaOnevision):
    class_tokens = 1


class ClassToken(LlavaOnevision):
    class_tokens = 1


@cache
def second_last_features(attention):
    """Features of the layer before the last: the last one is computed in vain."""
    model = tiny_onevision(attention)
    model.config.vision_feature_layer = -2
    return model


@cache
def clip_onevision(attention):
    """A tower with a class token, which upstream drops from the features."""
    old = tiny_onevision(attention).config
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=42, patch_size=6
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=old.text_config,
        image_token_index=old.image_token_id,
        video_token_index=old.video_token_id,
        image_grid_pinpoints=old.image_grid_pinpoints,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        vision_aspect_ratio=old.vision_aspect_ratio,
        attn_implementation=attention,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    sharpen(model)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = ONEVISION.pad_token, None
    return model


def reindexed(attention):
    """A decoder whose attention gets positions 0, 1, 2, ... wherever it gets fewer tokens than the prompt has."""
    model = tiny_onevision(attention)
    decoder, table = model.model.language_model, {}
    decoder.register_forward_pre_hook(lambda module, args, kwargs: table.clear(), with_kwargs=True)

    def restart(module, args, kwargs):
        cos, sin = table.setdefault("full", kwargs["position_embeddings"])
        rows = kwargs["hidden_states"].shape[1]
        return args, kwargs | {"position_embeddings": (cos[:, :rows], sin[:, :rows])}

    def remember(module, args, kwargs):
        table["full"] = kwargs["position_embeddings"]

    decoder.layers[0].register_forward_pre_hook(remember, with_kwargs=True)
    for layer in decoder.layers:
        layer.self_attn.register_forward_pre_hook(restart, with_kwargs=True)
    return model


@dataclass(frozen=True)
class Mistake:
    """A wrong case, the check that must find it, and what that check must say."""

    case: Case
    check: str
    says: str


def onevision(change):
    return replace(ONEVISION, family=changing_units(LlavaOnevision, change))


def qwen(change):
    return replace(QWEN, family=changing_units(Qwen2VL, change))


SECOND_LAST = replace(ONEVISION, model=second_last_features)
CLIP = replace(ONEVISION, model=clip_onevision, family=ClassToken())

MISTAKES = {
    "coordinates rolled": Mistake(
        onevision(rows_rolled),
        "coordinates",
        "visual token 0 lies in row 5 of view 0, but it moves with the pixels of row 0, counted from the top",
    ),
    "coordinates transposed": Mistake(
        qwen(transposed), "coordinates", "visual token 1 lies in row 1 of view 0, but it moves with the pixels of row 0"
    ),
    "rows with a gap": Mistake(qwen(rows_with_a_gap), "coordinates", "no full grid"),
    "frames reversed": Mistake(qwen(frames_reversed), "coordinates", "moves with earlier frames"),
    "patches not un-permuted": Mistake(
        qwen(merged_in_raster_order), "map alignment", "but to_tokens takes their importance to visual token 0, 1"
    ),
    "crops exchanged": Mistake(onevision(crops_exchanged), "map alignment", "it permutes the patches"),
    "entropy in another order": Mistake(
        qwen(entropy_in_raster_order), "entropy alignment", "the entropy map is in another order"
    ),
    "entropy of other patches": Mistake(
        qwen(entropy_of_half_patches), "entropy alignment", "Unit.entropy has the shape"
    ),
    "deepstack left alone": Mistake(
        replace(QWEN3, family=NoResiduals()), "image-sdpa", "raises IndexError: .*take_residuals"
    ),
    "deepstack lost": Mistake(replace(QWEN3, family=LostResiduals()), "image-sdpa", "logits at the last prompt"),
    "newline as a patch": Mistake(
        onevision(newlines_as_patches), "structural tokens", "no pixel reaches visual token 56 of image 0"
    ),
    "newline scored": Mistake(
        onevision(newline_scored), "structural tokens", "to_tokens gives structural token 56 of image 0 the value 1"
    ),
    "patch as a separator": Mistake(
        onevision(patch_as_separator), "structural tokens", "visual token 3 of image 0 moves with the pixels"
    ),
    "layer too early": Mistake(
        replace(ONEVISION, family=Early()), "observed layer", "layers.2.self_attn comes after it and reaches"
    ),
    "layer too late": Mistake(
        replace(SECOND_LAST, family=Late()), "observed layer", "layers.2.self_attn, never reaches the visual tokens"
    ),
    "wrong placeholder id": Mistake(
        replace(ONEVISION, family=WrongPlaceholder()),
        "visual tokens",
        "Upstream puts image features where the id is 1, not 4",
    ),
    "class token forgotten": Mistake(
        replace(CLIP, family=NoClassToken()), "patches", "position 0 of view 0 .* never moves with the pixels"
    ),
    "class token invented": Mistake(
        replace(ONEVISION, family=TooManyClassTokens()), "map alignment", "is Family.class_tokens right"
    ),
    "crops not joined": Mistake(replace(INTERNVL, family=CropsApart()), "counts", "does not say which of them belong"),
    "images joined": Mistake(replace(INTERNVL, family=ImagesTogether()), "counts", "of several|visual tokens, but"),
    "wrong decoder": Mistake(replace(ONEVISION, family=WrongDecoder()), "visual tokens", "never calls|inputs_embeds"),
    "a token too few": Mistake(onevision(one_token_short), "counts", "upstream makes"),
    "no reference of a recurrent layer": Mistake(
        replace(QWEN35, recurrent={}), "image-sdpa", r"name one of its modules \(linear_attn, "
    ),
    "positions re-indexed": Mistake(replace(ONEVISION, model=reindexed), "image-sdpa", "Were positions re-indexed"),
}


def checks(case):
    return {parameter.id: parameter.values[0] for parameter in conformance(case).args[1]}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found_and_named(mistake):
    with pytest.raises(ConformanceError, match=mistake.says) as raised:
        checks(mistake.case)[mistake.check]()
    assert "proves" in raised.value.__notes__[0]


@pytest.mark.parametrize("case", [SECOND_LAST, CLIP], ids=["second last features", "class token"])
@pytest.mark.parametrize("check", ["map alignment", "patches", "observed layer", "attention weights", "image-sdpa"])
def test_the_models_of_these_mistakes_pass_with_right_adapters(case, check):
    checks(case)[check]()


@pytest.mark.parametrize("check", ["counts", "map alignment", "entropy alignment", "coordinates", "ragged batch-sdpa"])
def test_an_interpolated_grid_passes(check):
    """Each token is made of several patches with different weights, and neighbours share them."""
    model = cache(lambda attention: tiny_onevision(attention, aspect="anyres_max_1"))
    case = replace(ONEVISION, model=model, image_sizes=((84, 84), (120, 40)))
    layout = Subject(case, "sdpa").batch(Sample((noise((84, 84), 0),))).placed[0].unit.layout
    assert layout.tokens < 49 + 14 * 14  # interpolation took place
    checks(case)[check]()
