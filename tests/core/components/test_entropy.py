"""Patch entropy (Eq. 3) against a 256-bin histogram in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import entropy as oracle
from support.backends import both_backends, host, to_backend
from vflowopt.components import entropy as module
from vflowopt.components.entropy import gray_levels, patch_entropy
from vflowopt.errors import InputError
from vflowopt.testing import seeds


@st.composite
def level_maps(draw):
    """Gray levels [views, height, width] and a patch size that need not divide them; from flat to all 256 levels."""
    size = draw(st.integers(1, 16))
    height, width = draw(st.integers(size, 3 * size + 1)), draw(st.integers(size, 3 * size + 1))
    rng = np.random.default_rng(draw(seeds))
    low = draw(st.sampled_from([0, 100, 255]))
    high = draw(st.sampled_from([low, min(low + 3, 255), 255]))
    return rng.integers(low, high + 1, (draw(st.integers(1, 3)), height, width)), size


@both_backends
@given(drawn=level_maps())
def test_entropy_agrees_with_the_histogram(backend, drawn):
    levels, size = drawn
    actual = patch_entropy(to_backend(levels, backend), size)
    expected = np.stack([oracle.patch_entropy(view, size) for view in levels])
    assert str(actual.dtype).endswith("float32")
    np.testing.assert_allclose(host(actual), expected, rtol=1e-6, atol=1e-6)
    assert (host(actual) >= 0).all()
    assert (host(actual) <= math.log(256) * (1 + 1e-6)).all()


@both_backends
def test_entropy_of_known_patches(backend):
    flat, half, every = np.full(256, 7), np.repeat([0, 255], 128), np.arange(256)
    levels = np.stack([flat, half, every]).reshape(3, 16, 16)
    actual = host(patch_entropy(to_backend(levels, backend), 16))[:, 0]
    np.testing.assert_allclose(actual, [0, math.log(2), math.log(256)], rtol=1e-6)
    assert actual[0] == 0
    assert not np.signbit(actual[0])


@given(seed=seeds, size=st.integers(1, 12))
def test_entropy_does_not_depend_on_the_order_of_pixels(seed, size):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (1, size, size)) // rng.integers(1, 100)
    shuffled = rng.permutation(levels.ravel()).reshape(levels.shape)
    assert patch_entropy(levels, size) == patch_entropy(shuffled, size)


def test_patches_are_in_row_major_order():
    levels = np.zeros((1, 4, 6), dtype=np.int64)
    levels[0, 0, 4] = levels[0, 2, 0] = 9  # in the patch at row 0, column 2, and in the one at row 1, column 0
    assert np.flatnonzero(patch_entropy(levels, 2)[0]).tolist() == [2, 3]


def test_blocks_of_the_computation_do_not_show(monkeypatch):
    levels = np.random.default_rng(0).integers(0, 9, (2, 20, 28))
    whole = patch_entropy(levels, 4)
    monkeypatch.setattr(module, "_CHUNK", 3)
    np.testing.assert_array_equal(patch_entropy(levels, 4), whole)


@both_backends
@given(seed=seeds, views=st.integers(1, 2), height=st.integers(1, 6), width=st.integers(1, 6))
def test_gray_is_the_rounded_mean_of_the_channels(backend, seed, views, height, width):
    images = np.random.default_rng(seed).integers(0, 256, (views, 3, height, width), dtype=np.uint8)
    for dtype in (np.uint8, np.float32):
        actual = gray_levels(to_backend(images.astype(dtype), backend))
        assert str(actual.dtype).endswith("int64")
        assert host(actual).tolist() == [oracle.gray(image).tolist() for image in images]


def test_gray_levels_stay_in_range():
    assert gray_levels(np.full((3, 1, 1), 300.0)).item() == 255
    assert gray_levels(np.full((3, 1, 1), -5.0)).item() == 0


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (2, 8, 8, 3)])
def test_images_without_three_channels_are_refused(shape):
    with pytest.raises(InputError, match=r"\[\.\.\., 3, height, width\], not \(" + str(shape)[1:-1]):
        gray_levels(np.zeros(shape))


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="5 x 20 pixels is smaller than one patch of 6"):
        patch_entropy(np.zeros((1, 5, 20), dtype=np.int64), 6)
