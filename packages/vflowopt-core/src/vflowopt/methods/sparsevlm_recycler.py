"""SparseVLM's recycling: the best of what a stage prunes is clustered, and every cluster becomes one token.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML 2025,
arXiv 2410.04417; code: Gumpest/SparseVLMs. Clusters are density peaks among nearest neighbours, after Rodriguez and
Laio, "Clustering by fast search and find of density peaks", Science 2014.

Of D pruned tokens the T = floor(tau D) + 1 most important are recycled, into C = floor(theta T) + 1 clusters. With d
the Euclidean distance of hidden states divided by the root of their length, and K(i) the C tokens nearest to i, itself
included,

    rho_i = exp(-mean of d(i, j)^2 over K(i)),    delta_i = min of d(i, j) over j with rho_j > rho_i,

or for the highest rho the largest distance. The C tokens with the highest rho_i delta_i are centres, every other token
joins the nearest centre, and the new token is the mean of a cluster.

What differs: the paper and its code add the new tokens to those that a stage keeps; here a stage's number includes
them, so that a budget is one. They stand after the visual tokens with fresh positions; here each stands in the place of
its centre. The paper sums a cluster, its code takes the mean, as here. The code breaks ties of density by noise; here
the more important token is the denser one. Ranks are found from logarithms, since rho underflows where hidden states
are large.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, device_of, inverse_permutation, namespace, pick
from vflowopt.components import Merge
from vflowopt.components.stage_recycling import Hidden, StageRecycler
from vflowopt.layout import TokenLayout


class DensityPeaks(StageRecycler):
    """Merge the best of what each stage prunes into one token per cluster of hidden states.

    Attributes:
        recycled: tau, share of the pruned tokens that are recycled.
        clusters: theta, clusters per recycled token.
    """

    name: Literal["density-peaks"] = "density-peaks"
    recycled: Annotated[float, Field(gt=0, le=1)] = 0.3
    clusters: Annotated[float, Field(gt=0, le=1)] = 0.1

    def merge_stage(self, ranking: Array, layout: TokenLayout, before: int, count: int, hidden: Hidden) -> Merge:
        """See :meth:`StageRecycler.merge_stage`. Shapes depend on the numbers only, so nothing leaves the device."""
        xp, device = namespace(ranking), device_of(ranking)
        members, clusters = self.numbers(before - count, count)
        kept, dropped = count - clusters, layout.tokens - (count - clusters) - members
        order = descending_order(ranking)
        anchors, weights = [order[:kept]], [xp.ones(kept, dtype=ranking.dtype, device=device)]
        if clusters:
            pool = order[kept : kept + members]
            centre, own = density_peaks(hidden(pool), clusters)
            anchors.append(pick(pick(pool, centre), own))
            weights.append(pick(1 / cluster_sizes(own, clusters), own))
        anchors.append(xp.full(dropped, -1, dtype=order.dtype, device=device))
        weights.append(xp.zeros(dropped, dtype=ranking.dtype, device=device))
        rank = inverse_permutation(order)
        anchor, weight = (pick(xp.concat(parts), rank) for parts in (anchors, weights))
        return Merge(retained=anchor == xp.arange(layout.tokens, device=device), anchor=anchor, weight=weight)

    def numbers(self, lost: int, count: int) -> tuple[int, int]:
        """How many tokens are recycled, T, and into how many clusters, C.

        C clusters need C slots, for which as many tokens more are pruned: D = ``lost`` + C. C is the least number
        with which this comes out, at most ``count``.

        Args:
            lost: tokens by which the stage reduces the unit.
            count: tokens that it retains.
        """
        clusters, wanted = -1, 0
        while wanted > clusters:
            clusters = wanted
            members = min(lost + clusters, math.floor(self.recycled * (lost + clusters)) + 1)
            wanted = min(count, members, math.floor(self.clusters * members) + 1)
        return (members, clusters) if clusters else (0, 0)


def density_peaks(vectors: Array, clusters: int) -> tuple[Array, Array]:
    """Cluster vectors by density peaks.

    Args:
        vectors: float32 [T, features]; of equally dense ones the first counts as denser.
        clusters: C, between 1 and T.

    Returns:
        Centres int64 [C], and the cluster that each vector belongs to, int64 [T].
    """
    xp = namespace(vectors)
    number = xp.arange(vectors.shape[0], device=device_of(vectors))
    alone = number[:, None] == number[None, :]
    distance = _distances(vectors, alone)
    nearest = xp.sort(distance, axis=1)[:, :clusters]
    log_density = -xp.mean(nearest * nearest, axis=1)
    rank = inverse_permutation(descending_order(log_density))
    denser = rank[None, :] < rank[:, None]
    apart = xp.min(xp.where(denser, distance, xp.max(distance)), axis=1)
    smallest = xp.finfo(vectors.dtype).smallest_normal
    score = log_density + xp.log(xp.clip(apart, smallest, None))
    centre = descending_order(score)[:clusters]
    is_centre = number[:, None] == centre[None, :]
    own = xp.argmin(xp.where(is_centre, -1.0, pick(distance, centre, axis=1)), axis=1)
    return centre, own


def cluster_sizes(own: Array, clusters: int) -> Array:
    """How many vectors belong to each cluster: float32 [C], from the cluster of each, int64 [T]."""
    xp = namespace(own)
    cluster = xp.arange(clusters, device=device_of(own))
    return xp.sum(xp.astype(own[:, None] == cluster[None, :], xp.float32), axis=0)


def _distances(vectors: Array, alone: Array) -> Array:
    """Euclidean distances [T, T], divided by the root of the vectors' length; 0 where ``alone``."""
    xp = namespace(vectors)
    centred = (vectors - xp.mean(vectors, axis=0, keepdims=True)) / math.sqrt(vectors.shape[1])
    norms = xp.sum(centred * centred, axis=1)
    products = centred @ centred.T
    # Symmetric to the last bit: tokens that are each other's neighbours are equally dense.
    squares = (norms[:, None] + norms[None, :]) - (products + products.T)
    return xp.sqrt(xp.where(alone, 0.0, xp.clip(squares, 0.0, None)))
