"""What families of several model sizes and modalities refuse, before anything runs."""

import pytest
import torch

from support.cases import gemma4, minicpm_v4_6
from vflowopt.errors import InputError, UnsupportedModelError, UnsupportedOperationError
from vflowopt_hf.testing.subject import Subject


@pytest.mark.parametrize("text", [{"hidden_size_per_layer_input": 8}, {"num_kv_shared_layers": 2}])
def test_gemma_4_with_inputs_or_keys_of_its_own_in_layers_is_refused(text):
    own = Subject(gemma4.CASE, "sdpa")
    model = gemma4.tiny_gemma4(vocab_size_per_layer_input=gemma4.VOCABULARY, **text)
    strategy = own.strategy(own.batch(own.image(0)))
    with pytest.raises(UnsupportedModelError, match=r"E2B, E4B.*use Gemma 4 26B-A4B or 31B"):
        own.adapter.prune(model, strategy)


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
