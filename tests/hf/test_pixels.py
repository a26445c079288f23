"""Patch entropy of the 8-bit image that the tower really saw."""

import numpy as np
import pytest
import torch

from support.tiny import PATCH, image_inputs, image_processor, random_image, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import InputError
from vflowopt_hf.pixels import PixelStatistics, image_entropy


def entropy_oracle(image, patch):
    """Plain loops over an 8-bit image [height, width, 3]."""
    gray = np.rint(image.astype(np.float64).mean(-1)).astype(int)
    found = []
    for top in range(0, gray.shape[0] - patch + 1, patch):
        for left in range(0, gray.shape[1] - patch + 1, patch):
            counts = np.bincount(gray[top : top + patch, left : left + patch].ravel(), minlength=256)
            share = counts[counts > 0] / patch**2
            found.append(-(share * np.log(share)).sum())
    return np.array(found)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))],
)
def test_normalisation_is_inverted_exactly(mean, std):
    image = np.asarray(random_image(42, 42, seed=3))
    normalised = (torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - torch.tensor(mean)[:, None, None]) / (
        torch.tensor(std)[:, None, None]
    )
    found = image_entropy(normalised[None], PATCH, PixelStatistics(mean, std))
    np.testing.assert_allclose(found[0].numpy(), entropy_oracle(image, PATCH), rtol=1e-6, atol=1e-6)


def test_the_unit_sees_what_the_processor_made():
    """Resized, padded and cropped as the real image processor does, then back to 8 bits."""
    model = tiny_onevision()
    processor = image_processor()
    image = random_image(60, 97, seed=1)
    raw = processor(image, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"][0]
    strategy = Strategy.vflowopt(num_layers=6, retention=(0.5, 1.0, 1.0), entropy_weight=1e6)
    inputs = image_inputs(model, [[(60, 97)]], seed=1)
    seen = {}
    original = type(strategy.scorer).score

    def spy(self, context):
        seen["entropy"] = context.entropy
        return original(self, context)

    with pytest.MonkeyPatch.context() as patch, prune(model, strategy, processor=processor), torch.no_grad():
        patch.setattr(type(strategy.scorer), "score", spy)
        model(**inputs)
    expected = np.stack([entropy_oracle(np.rint(view.transpose(1, 2, 0)), PATCH) for view in raw])
    np.testing.assert_allclose(seen["entropy"].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_statistics_come_from_the_processor():
    assert PixelStatistics.of(image_processor()) == PixelStatistics((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match="no image_mean"):
        PixelStatistics.of(object())
