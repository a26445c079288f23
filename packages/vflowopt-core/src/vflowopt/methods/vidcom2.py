"""VidCom2: of a video more of the frames that differ from the others, and of each what differs within it.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models", EMNLP
2025, arXiv 2505.14454; code: xuyang-liu16/VidCom2.

Of the embeddings as they enter the decoder, the half of the features with the lowest variance are scaled to length 1
per token: x. With g and f the means of x over the video and over a token's frame, and a = 1/8, 1/4, 1/2, 1, 2,

    v_i = sum over a of exp(-|x_i - g|^2 / 2a),    w_i = sum over a of exp(-|x_i - f|^2 / 2a)

tokens with low v + w stay, in a frame as many as in proportion to its number of tokens times

    1 + p - mean p,    p = softmax over frames of (-mean of v over the frame) / 0.01

Where this differs from the public code:

- It rounds the number of each frame by itself, at least 1 and at most all. Here the numbers are proportional by
  Webster's method (Sainte-Lague), so that their sum is exact for every budget: the q-th token of a frame is ranked by
  (q - 1/2) over the frame's number. A frame may be left without a token.
- An image is a video there is none of; here its crops are frames. With one frame, tokens with low 2 v stay.
- Frames of video models have one size; here frames may differ.
"""

from typing import ClassVar, Literal

import numpy as np

from vflowopt.arrays import Array, asarray_like, descending_order, inverse_permutation, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.ordering import by_order

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
_TEMPERATURE = 0.01


class VidCom2(Scorer):
    """Outliers of the video and of their frame, with a number per frame that follows how unique it is. No options."""

    vectorises: ClassVar[bool] = True
    name: Literal["vidcom2"] = "vidcom2"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        features, layout = context.features, context.layout
        views = layout.position[~layout.structural, 0]

        def choose(tokens: Array, steps: int) -> Array:  # noqa: ARG001
            frames, frame = np.unique(views, return_inverse=True)
            of_frame = (frame[None, :] == np.arange(len(frames))[:, None]).astype(np.float32)
            member = layout.derived("frames", features, lambda: asarray_like(of_frame, features))
            share, likeness = uniqueness(pick(features, tokens), member)
            return apportioned(likeness, share, frame)

        return Score(by_order(layout, layout.tokens, features, choose), {})


def uniqueness(features: Array, member: Array) -> tuple[Array, Array]:
    """How unique frames and tokens are.

    Args:
        features: float32 [tokens, D]; at least one token.
        member: float32 [frames, tokens], 1 for the tokens of each frame; every frame has some.

    Returns:
        What each frame's number of tokens is in proportion to, per token of the frame: float32 [frames]. And v + w of
        each token: float32 [tokens].
    """
    xp = namespace(features)
    deviation = features - xp.mean(features, axis=0, keepdims=True)
    steady = xp.argsort(xp.mean(deviation * deviation, axis=0), stable=True)[: features.shape[1] // 2]
    vectors = normalised(pick(features, steady, axis=1))
    mean = member / xp.sum(member, axis=1, keepdims=True)
    of_video = _likeness(vectors, xp.mean(vectors, axis=0, keepdims=True))
    of_frame = _likeness(vectors, xp.matrix_transpose(member) @ (mean @ vectors))
    logits = -(mean @ of_video) / _TEMPERATURE
    odds = xp.exp(logits - xp.max(logits))
    unique = odds / xp.sum(odds)
    return 1 + unique - xp.mean(unique), of_video + of_frame


def _likeness(vectors: Array, centre: Array) -> Array:
    xp = namespace(vectors)
    squared = xp.sum((vectors - centre) ** 2, axis=1)
    return sum((xp.exp(-squared / (2 * width)) for width in _WIDTHS), xp.zeros_like(squared))


def apportioned(likeness: Array, share: Array, frame: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Array:
    """An order in which any number of first tokens takes from every frame in proportion to its share and size.

    Args:
        likeness: float32 [tokens]; in a frame, tokens with less come first.
        share: float32 [frames], positive.
        frame: int64 [tokens], the frame of each token, on the host.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(likeness)
    sizes = np.bincount(frame)
    turn = np.concatenate([np.arange(size) + 0.5 for size in sizes]) / np.repeat(sizes, sizes)
    within = descending_order(-likeness)
    grouped = pick(within, xp.argsort(pick(asarray_like(frame, likeness), within), stable=True))
    owner = asarray_like(np.repeat(np.arange(len(sizes)), sizes), likeness)
    late = asarray_like(turn.astype(np.float32), likeness) / pick(share, owner)  # when each of ``grouped`` is taken
    return xp.argsort(pick(late, inverse_permutation(grouped)), stable=True)
