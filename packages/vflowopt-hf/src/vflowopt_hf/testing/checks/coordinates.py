"""Does the layout say where in the image a visual token is?

Horizontal and vertical strips of the source image are changed before the image processor. With attention switched off
in the vision tower, the strips that a token answers to give its place in the image, whatever the adapter says.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vflowopt.arrays import HostInts
from vflowopt.testing import fail, require
from vflowopt_hf.testing.batches import Media, Sample, noise
from vflowopt_hf.testing.probe import embed, without_mixing
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.unit_joining import join

STRIPS = 24
Places = npt.NDArray[np.float64]


def coordinates(subject: Subject) -> None:
    """In each view of the layout rows go down and columns go right in the image, from 0 and without gaps."""
    case = subject.case
    media: list[tuple[str, tuple[int, ...]]] = [
        (f"image {' x '.join(map(str, size))}", size) for size in case.image_sizes
    ]
    media += [(f"video {' x '.join(map(str, size))}", size) for size in case.video_sizes]
    for what, shape in media:
        source = noise(shape, seed=1)
        position = join([placed.unit for placed in subject.batch(Sample((source,))).placed]).layout.position
        for view in np.unique(position[position[:, 0] >= 0, 0]):
            _check_grid(what, position, int(view))
        for axis, name, end in ((1, "row", "top"), (2, "column", "left")):
            _check_axis(subject, source, position, what, axis, name, end)
        if len(shape) == 3:
            _check_frames(subject, source, position, what)


def _check_grid(what: str, position: HostInts, view: int) -> None:
    cells = position[position[:, 0] == view, 1:]
    rows, columns = cells.max(axis=0) + 1
    places = len(np.unique(cells, axis=0))
    require(
        places == len(cells) == rows * columns,
        f"view {view} of the layout of {what} is no full grid: {len(cells)} tokens have {places} different places in "
        f"{rows} rows and {columns} columns (counted from 0)",
    )


def _check_axis(subject: Subject, source: Media, position: HostInts, what: str, axis: int, name: str, end: str) -> None:
    place = centroids(subject, source, axis - 3)
    for view in np.unique(position[position[:, 0] >= 0, 0]):
        members = np.flatnonzero(position[:, 0] == view)
        grid = np.full(position[members, 1:].max(axis=0) + 1, -1)
        grid[tuple(position[members, 1:].T)] = members
        lines = grid if axis == 2 else grid.T  # along the axis that is checked
        count = lines.shape[1]
        if count < 2:
            continue
        low, high = np.nanmin(place[members]), np.nanmax(place[members])
        with np.errstate(invalid="ignore"):  # tokens of nothing but padding answer to no strip
            wrong = np.diff(place[lines], axis=1) < 0.2 * (high - low) / (count - 1)
        if not wrong.any():
            continue
        estimate = (place - low) / (high - low) * (count - 1)
        off = np.abs(estimate[members] - position[members, axis])
        token = int(members[np.nanargmax(off > 0.75)])
        fail(
            f"the layout of {what} says that visual token {token} lies in {name} {position[token, axis]} of view "
            f"{view}, but it moves with the pixels of {name} {np.rint(estimate[token]):.0f}, counted from the {end}: "
            f"positions are (view, row, column)"
        )


def _check_frames(subject: Subject, source: Media, position: HostInts, what: str) -> None:
    place = centroids(subject, source, 0)
    views = np.unique(position[position[:, 0] >= 0, 0])
    means = [np.nanmean(place[position[:, 0] == view]) for view in views]
    for view, (before, after) in enumerate(pairwise(means)):
        require(
            after > before,
            f"the layout of {what} puts view {views[view + 1]} after view {views[view]}, but it moves with earlier "
            f"frames ({after:.2f} against {before:.2f} on average)",
        )


def centroids(subject: Subject, source: Media, axis: int) -> Places:
    """Where along an axis of its source each visual token gets its pixels: float64 [N], NaN where nowhere.

    Args:
        subject: whose model to ask.
        source: uint8 [height, width, 3] or [frames, height, width, 3].
        axis: 0 for frames, -2 for height, -1 for width, not counting colours.
    """
    other = noise(source.shape[:-1], seed=2)
    length = source.shape[axis if axis == 0 else axis - 1]
    edges = np.unique(np.linspace(0, length, min(STRIPS, length) + 1).astype(int))
    samples = [Sample((source,))]
    for first, end in pairwise(edges):
        changed = source.copy()
        window = [slice(None)] * source.ndim
        window[axis if axis == 0 else axis - 1] = slice(first, end)
        changed[tuple(window)] = 255 - other[tuple(window)]
        samples.append(Sample((changed,)))
    batch = subject.batch(*samples)
    with without_mixing(subject), torch.no_grad():
        features: Tensor = embed(subject, batch).features(batch.placed).unflatten(0, (len(samples), -1))
    answer = (features[1:] - features[0]).double().square().sum(dim=-1).numpy()
    answer[answer < 1e-8 * answer.max()] = 0
    centres = (edges[:-1] + edges[1:]) / 2
    with np.errstate(invalid="ignore"):
        places: Places = centres @ answer / answer.sum(axis=0)
    return places
