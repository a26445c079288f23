"""Eq. 3: entropy of the gray levels in each patch."""

import math

import numpy as np


def gray(image):
    """Gray level of each pixel of one [3, height, width] 8-bit image: the mean of R, G, B to the nearest integer."""
    _, height, width = image.shape
    levels = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            levels[y, x] = round(sum(float(image[c, y, x]) for c in range(3)) / 3)
    return levels


def patch_entropy(levels, size):
    """H = -sum p ln p over the 256-bin histogram of each whole patch of one view, in row-major order."""
    entropies = []
    for top in range(0, levels.shape[0] - size + 1, size):
        for left in range(0, levels.shape[1] - size + 1, size):
            pixels = levels[top : top + size, left : left + size].ravel()
            histogram = np.bincount(pixels, minlength=256)
            shares = [count / len(pixels) for count in histogram if count > 0]
            entropies.append(-sum(p * math.log(p) for p in shares))
    return np.array(entropies)
