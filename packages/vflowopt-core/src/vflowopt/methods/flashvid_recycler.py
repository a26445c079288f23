"""FlashVID's merging: what resembles a token of the frame before joins it, and the trees of each frame are clustered.

Fan et al., "FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token Merging",
ICLR 2026, arXiv 2602.08024; code: Fanziyang-v/FlashVID, there TSTM and then DPC-kNN.

Of the tokens retained, a share alpha is taken by importance and stays as it is. Every other token i is linked to

    parent(i) = argmax over the frame before of cos(x_i, x_j),    if cos(x_i, x_parent) > 0.8

of those tokens j that do not stay either, if both frames are in one segment (:mod:`vflowopt.methods.flashvid` says how
a video is cut). So there are trees, whose roots are in their earliest frames, and x of a root becomes the mean of its
tree. No more tokens are linked than are pruned: those that are most similar. Where there are more trees than slots, the
r roots of each frame are clustered into m by density peaks, with d their Euclidean distance divided by the root of
their length and K(i) the min(m, 7) roots of the frame nearest to i, itself included:

    rho_i = exp(-mean of d(i, j)^2 over K(i)),    delta_i = min of d(i, j) over j with rho_j > rho_i,

or for the highest rho the largest distance. The m roots with the highest rho_i delta_i are centres, every other one
joins the nearest centre, and the new token, in the centre's place, is the mean of the trees of its cluster.

Where this differs from the public code:

- It has so many slots for each segment, and r times slots over trees, rounded up, for each frame of it: the sum depends
  on the video. Here the sum is exact: each frame has one slot first, those with most roots before the others, and then
  in proportion to r (Adams's method) over the whole video. Where slots are fewer than frames with roots, the trees of
  the others are dropped.
- There a token's divisor counts its own children only, so that a tree of more than two frames is not a mean. The paper
  describes a mean.
- It links one token fewer where the slots, not the threshold, bound how many.
- It breaks ties of density by noise, here the first in the prompt is the denser one.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, device_of, inverse_permutation, namespace, normalised, pick
from vflowopt.components import ContextRecycler, Merge, ScoringContext
from vflowopt.methods.video_frames import Frames, segments

_NEIGHBOURS = 7


class SpatiotemporalTrees(ContextRecycler):
    """Keep the most important tokens; merge the others over time, then within their frame.

    Attributes:
        selected: alpha, share of the retained tokens that stay as they are.
        similarity: cosine above which a token is linked to one of the frame before.
        segments: a video is cut into at least so many, if it has as many frames.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["flashvid"] = "flashvid"
    selected: Annotated[float, Field(ge=0, le=1)] = 0.7
    similarity: Annotated[float, Field(ge=-1, le=1)] = 0.8
    segments: Annotated[int, Field(ge=1)] = 8

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features"})

    def merge_unit(self, importance: Array, context: ScoringContext, count: int) -> Merge:
        """See :meth:`Recycler.merge_unit`. Shapes depend on the layout only, so nothing leaves the device."""
        layout, features = context.layout, context.features
        xp, tokens = namespace(importance), layout.tokens
        token = xp.arange(tokens, device=device_of(importance))
        stays = math.floor(self.selected * count + 0.5)
        kept = inverse_permutation(descending_order(importance)) < stays
        if stays == count:
            return Merge(kept, xp.where(kept, token, -1), xp.astype(kept, importance.dtype))
        frames = Frames.of(layout, features)
        grid = frames.arranged(features)
        free = frames.there & (frames.arranged(xp.astype(kept, features.dtype)) == 0)
        parent = self._parents(grid, free, segments(frames.means(grid), self.segments), tokens - count)
        root, size, mean = trees(grid, parent)
        is_root = free & (parent < 0)
        centre, weight = clusters(mean, is_root, count - stays)
        # Of each token's root: the place of its cluster's centre, and its share of it.
        place = pick(xp.reshape(root, (-1,)), frames.seat)
        anchor = pick(xp.reshape(centre, (-1,)), place)
        share = pick(xp.reshape(weight, (-1,)) / xp.reshape(size, (-1,)), place)
        slot = pick(frames.table, xp.clip(anchor, 0, None))
        anchor = xp.where(kept, token, xp.where(anchor < 0, -1, slot))
        share = xp.where(kept, 1.0, xp.where(anchor < 0, 0.0, share))
        return Merge(retained=anchor == token, anchor=anchor, weight=share)

    def _parents(self, grid: Array, free: Array, segment: Array, most: int) -> Array:
        """The place in the frame before that each free place is linked to: int64 [F, n]; -1 for none."""
        xp = namespace(grid)
        none = xp.full((1, grid.shape[1]), -1, dtype=xp.int64, device=device_of(grid))
        if grid.shape[0] == 1:
            return none
        directions = normalised(grid)
        alike = directions[1:, :, :] @ xp.matrix_transpose(directions[:-1, :, :])
        together = (segment[1:] == segment[:-1])[:, None, None]
        alike = xp.where(free[1:, :, None] & free[:-1, None, :] & together, alike, -2.0)
        best = xp.max(alike, axis=2)
        rank = inverse_permutation(descending_order(xp.reshape(best, (-1,))))
        linked = (xp.reshape(rank, best.shape) < most) & (best > self.similarity)
        return xp.concat([none, xp.where(linked, xp.argmax(alike, axis=2), -1)])


def trees(grid: Array, parent: Array) -> tuple[Array, Array, Array]:
    """What every place belongs to, and the mean of what belongs to it.

    Args:
        grid: float32 [F, n, D].
        parent: int64 [F, n], in the frame before; -1 for none.

    Returns:
        The root of each place, among all F * n, int64 [F, n]. The size of the tree below each place, itself included,
        float32 [F, n], and its mean, float32 [F, n, D].
    """
    xp, (frames, places) = namespace(grid), parent.shape
    number = xp.arange(places, device=device_of(grid))
    roots = [number]
    for frame in range(1, frames):
        above = pick(roots[-1], xp.clip(parent[frame, :], 0, None))
        roots.append(xp.where(parent[frame, :] < 0, frame * places + number, above))
    sums = [xp.concat([grid[frame, :, :], xp.ones_like(grid[frame, :, :1])], axis=1) for frame in range(frames)]
    for frame in range(frames - 1, 0, -1):
        joins = xp.astype(number[:, None] == parent[frame, :][None, :], grid.dtype)
        sums[frame - 1] = sums[frame - 1] + joins @ sums[frame]
    total = xp.stack(sums)
    return xp.stack(roots), total[:, :, -1], total[:, :, :-1] / total[:, :, -1:]


def clusters(vectors: Array, valid: Array, count: int) -> tuple[Array, Array]:
    """Cluster the vectors of each frame by density peaks.

    Args:
        vectors: float32 [F, n, D].
        valid: bool [F, n], those that there are; at least ``count``.
        count: clusters of all frames together, at least 1.

    Returns:
        The centre that each vector belongs to, among all F * n, int64 [F, n]; -1 where the frame has none. And one over
        the number of vectors of its cluster, float32 [F, n].
    """
    xp, (frames, places) = namespace(vectors), valid.shape
    number = xp.arange(places, device=device_of(vectors))
    offset = xp.arange(frames, device=device_of(vectors)) * places
    own = _shares(valid, count)[:, None]
    distance = _distances(vectors)
    pairs = valid[:, :, None] & valid[:, None, :]
    near = xp.sort(xp.where(pairs, distance, xp.inf), axis=2)[:, :, :_NEIGHBOURS]
    used = number[: near.shape[2]][None, None, :] < own[:, :, None]
    squares = xp.sum(xp.where(used & valid[:, :, None], near * near, 0.0), axis=2)
    density = xp.where(valid, -squares / xp.astype(xp.clip(own, 1, _NEIGHBOURS), squares.dtype), -xp.inf)
    rank = _ranks(density)
    denser = pairs & (rank[:, None, :] < rank[:, :, None])
    furthest = xp.max(xp.max(xp.where(pairs, distance, 0.0), axis=2), axis=1)[:, None, None]
    apart = xp.min(xp.where(denser, distance, furthest), axis=2)
    worth = density + xp.log(xp.clip(apart, xp.finfo(apart.dtype).smallest_normal, None))
    is_centre = valid & (_ranks(xp.where(valid, worth, -xp.inf)) < own)
    to_centre = xp.where(is_centre[:, None, :], distance, xp.inf)
    itself = (number[:, None] == number[None, :]) & is_centre[:, None, :]
    chosen = xp.argmin(xp.where(itself, -1.0, to_centre), axis=2)
    joined = (chosen[:, :, None] == number[None, None, :]) & valid[:, :, None]
    members = xp.sum(xp.astype(joined, vectors.dtype), axis=1)
    share = 1 / xp.clip(pick(xp.reshape(members, (-1,)), xp.reshape(chosen + offset[:, None], (-1,))), 1.0, None)
    centre = xp.where(valid & (own > 0), chosen + offset[:, None], -1)
    return centre, xp.reshape(share, valid.shape)


def _shares(valid: Array, count: int) -> Array:
    """How many of ``count`` slots each frame has: int64 [F], at most as many as it has vectors."""
    xp = namespace(valid)
    number = xp.arange(valid.shape[1], device=device_of(valid))[None, :]
    found = xp.sum(xp.astype(valid, xp.int64), axis=1, keepdims=True)
    sizes = xp.astype(found, xp.float32)
    late = xp.where(number == 0, -sizes, xp.astype(number, xp.float32) / xp.clip(sizes, 1.0, None))
    late = xp.where(number < found, late, xp.inf)
    taken = inverse_permutation(xp.argsort(xp.reshape(late, (-1,)), stable=True)) < count
    return xp.sum(xp.astype(xp.reshape(taken, valid.shape), xp.int64), axis=1)


def _ranks(values: Array) -> Array:
    """Places of values [F, n] in each row from high to low; of equal ones the first comes first."""
    xp = namespace(values)
    return xp.argsort(xp.argsort(-values, axis=1, stable=True), axis=1, stable=True)


def _distances(vectors: Array) -> Array:
    """Euclidean distances [F, n, n], divided by the root of the vectors' length; 0 from each to itself."""
    xp = namespace(vectors)
    number = xp.arange(vectors.shape[1], device=device_of(vectors))
    centred = (vectors - xp.mean(vectors, axis=1, keepdims=True)) / math.sqrt(vectors.shape[2])
    norms = xp.sum(centred * centred, axis=2)
    products = centred @ xp.matrix_transpose(centred)
    # Symmetric to the last bit: tokens that are each other's neighbours are equally dense.
    squares = (norms[:, :, None] + norms[:, None, :]) - (products + xp.matrix_transpose(products))
    return xp.sqrt(xp.where(number[:, None] == number[None, :], 0.0, xp.clip(squares, 0.0, None)))
