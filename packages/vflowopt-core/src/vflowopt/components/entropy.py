"""Patch entropy (paper Eq. 3)."""

from vflowopt.arrays import Array, device_of, namespace
from vflowopt.errors import InputError

LEVELS = 256
_CHUNK = 1024  # patches per block of the histogram: bounds its memory to a few MB


def gray_levels(images: Array) -> Array:
    """Gray level of each pixel: the mean of R, G and B, rounded half to even.

    Args:
        images: [..., 3, height, width], 8-bit values as integers or floats in 0..255.

    Returns:
        int64 [..., height, width] in 0..255.

    Raises:
        InputError: the third axis from the end is not 3.
    """
    xp = namespace(images)
    if images.ndim < 3 or images.shape[-3] != 3:
        raise InputError(f"images must have shape [..., 3, height, width], not {tuple(images.shape)}")
    levels = xp.round(xp.mean(xp.astype(images, xp.float32), axis=-3))
    return xp.astype(xp.clip(levels, 0, LEVELS - 1), xp.int64)


def patch_entropy(levels: Array, patch_size: int) -> Array:
    """Shannon entropy of the gray levels inside each patch, in nats (paper Eq. 3; 256 levels, natural logarithm).

    Args:
        levels: int64 [views, height, width] in 0..255.
        patch_size: side of a patch in pixels.

    Returns:
        float32 [views, patches] in [0, ln 256], patches in row-major order. Pixels beyond the last whole patch are
        ignored, as a strided patch embedding ignores them.

    Raises:
        InputError: the images are smaller than one patch.
    """
    xp = namespace(levels)
    views, height, width = levels.shape
    rows, columns = height // patch_size, width // patch_size
    if rows == 0 or columns == 0:
        raise InputError(f"an image of {height} x {width} pixels is smaller than one patch of {patch_size} pixels")
    cropped = levels[:, : rows * patch_size, : columns * patch_size]
    blocks = xp.reshape(cropped, (views, rows, patch_size, columns, patch_size))
    pixels = xp.reshape(xp.permute_dims(blocks, (0, 1, 3, 2, 4)), (views * rows * columns, patch_size * patch_size))
    parts = [_entropy_of_rows(pixels[start : start + _CHUNK, :]) for start in range(0, pixels.shape[0], _CHUNK)]
    return xp.reshape(xp.concat(parts), (views, rows * columns))


def _entropy_of_rows(values: Array) -> Array:
    """Entropy of each row of int64 [rows, pixels], in nats.

    Sorted rows turn counting into a difference of two searches: a level's count at a pixel is the distance between
    the first and last place where it occurs, and H = mean over pixels of -ln(count / pixels). No histogram of
    rows x 256 is built.
    """
    xp = namespace(values)
    rows, pixels = values.shape
    ordered = xp.sort(values, axis=-1)
    # One ascending key per row keeps the searches of all rows in a single call.
    offset = xp.arange(rows, dtype=xp.int64, device=device_of(values))[:, None] * LEVELS
    keys = xp.reshape(ordered + offset, (rows * pixels,))
    counts = xp.searchsorted(keys, keys, side="right") - xp.searchsorted(keys, keys, side="left")
    share = xp.reshape(xp.astype(counts, xp.float32), (rows, pixels)) / pixels
    # + 0.0 turns the -0.0 of a flat patch into 0.0.
    return -xp.mean(xp.log(share), axis=-1) + 0.0
