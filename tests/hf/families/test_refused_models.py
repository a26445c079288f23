"""What families of several model sizes and modalities refuse, before anything runs."""

import pytest
import torch

from support.cases import minicpm_v4_6
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt_hf.testing.subject import Subject


def test_minicpm_takes_no_videos_and_no_sizes_of_other_pixels():
    own = Subject(minicpm_v4_6.CASE, "sdpa")
    pixels = own.batch(own.image(0)).pixels
    model = own.model
    with pytest.raises(UnsupportedOperationError, match="pass their frames as images"):
        own.family.units(model, "video", pixels)
    twice = pixels | {"target_sizes": torch.cat([pixels["target_sizes"]] * 2)}
    with pytest.raises(InputError, match="target_sizes tell of 512 patches, but pixel_values hold 256"):
        own.family.units(model, "image", twice)


def test_minicpm_without_merging_in_the_tower_has_four_times_the_tokens():
    own = Subject(minicpm_v4_6.CASE, "sdpa")
    pixels = own.batch(own.image(0)).pixels
    (merged,) = own.family.units(own.model, "image", pixels)
    (whole,) = own.family.units(own.model, "image", pixels | {"downsample_mode": "4x"})
    assert whole.layout.tokens == 4 * merged.layout.tokens
    with torch.no_grad():
        features = own.model.model.get_image_features(**pixels, downsample_mode="4x").pooler_output
    assert [len(of_image) for of_image in features] == [whole.layout.tokens]
