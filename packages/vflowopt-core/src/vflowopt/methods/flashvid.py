"""FlashVID: of every frame what is attended to, concerns the scene and differs; of the rest, trees over time.

Fan et al., "FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token Merging",
ICLR 2026, arXiv 2602.08024; code: Fanziyang-v/FlashVID. This follows the code. Here is its selection of tokens (ADTS,
there ``attn_div_v2``); what becomes of the others is in :mod:`vflowopt.methods.flashvid_recycler`.

With x the embeddings as they enter the decoder and f their mean over a frame, a video is cut into segments where cos of
two consecutive f is below 0.9, and besides where it is lowest, until there are 8 segments. With a the attention that a
token gets (of the class token where there is one, else the mean), e the mean of f over a token's segment, and S what
was chosen so far of its own frame,

    w_i = a_i max(0, x_i . e),    next = argmax_i w_i min over j in S of (1 - cos(x_i, x_j))

and the first is that with the largest w_i times the distance to the token of the frame nearest to it.

Where this differs from the public code:

- It takes the same number of every frame, rounded up. Here numbers are proportional to the frames' sizes by Webster's
  method, as in :mod:`vflowopt.methods.vidcom2`, and their sum is exact for every budget.
- A negative product with e, which turns the nearest into the farthest there, counts as 0.
- Crops of an image are frames.
- It prunes once more before layer 20 of the decoder, by the attention of the last token, and starts from 1.25 times the
  budget for that. Here everything happens before the LLM.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, device_of, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.flashvid_recycler import SpatiotemporalTrees
from vflowopt.methods.ordering import by_order
from vflowopt.methods.video_frames import Frames, segments


class FlashVID(Scorer):
    """Attention, relevance to the scene and distance from what was chosen of the same frame.

    Cost: n x n distances for each frame of n tokens, and for every token that a frame retains a few small operations on
    all frames at once; nothing is read back from the device.

    Attributes:
        segments: a video is cut into at least so many, if it has as many frames.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["flashvid"] = "flashvid"
    segments: Annotated[int, Field(ge=1)] = 8

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features", "saliency"})

    @property
    def usual_recycler(self) -> SpatiotemporalTrees:
        """Trees over time."""
        return SpatiotemporalTrees(segments=self.segments)

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""
        features, layout = context.features, context.layout
        attention = context.to_tokens(context.saliency)

        def choose(tokens: Array, steps: int) -> Array:
            frames = Frames.of(layout, features)
            return chosen_order(pick(attention, tokens), pick(features, tokens), frames, steps, self.segments)

        return Score(by_order(layout, count, features, choose), {})


def chosen_order(attention: Array, features: Array, frames: Frames, count: int, least: int) -> Array:
    """All tokens, those of a frame as they are chosen, and of every frame as many as its size has a claim to.

    Args:
        attention: float32 [tokens], non-negative.
        features: float32 [tokens, D]; at least one token.
        frames: of the tokens.
        count: after so many tokens, the others of a frame follow by what they are worth then.
        least: number of segments.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(features)
    grid, there = frames.arranged(features), frames.there
    mean = frames.means(grid)
    segment = segments(mean, least)
    together = xp.astype(segment[:, None] == segment[None, :], features.dtype)
    event = (together @ mean) / xp.sum(together, axis=1, keepdims=True)
    weight = frames.arranged(attention) * xp.clip(xp.sum(grid * event[:, None, :], axis=2), 0.0, None)
    turn = _turns(weight, normalised(grid), there, frames.most(count))
    late = xp.where(there, (xp.astype(turn, features.dtype) + 0.5) / frames.sizes[:, None], xp.inf)
    return pick(frames.table, xp.argsort(xp.reshape(late, (-1,)), stable=True)[: features.shape[0]])


def _turns(weight: Array, directions: Array, there: Array, steps: int) -> Array:
    """As which of its frame each token is chosen: int64 [frames, n]; after ``steps`` the others by their worth."""
    xp, (frames, size) = namespace(weight), weight.shape
    number = xp.arange(size, device=device_of(weight))
    offset = xp.arange(frames, device=device_of(weight)) * size
    distance = xp.clip(1 - directions @ xp.matrix_transpose(directions), 0.0, 2.0)
    others = there[:, :, None] & (number[:, None] != number[None, :])
    worth = xp.where(there, weight * xp.min(xp.where(others, distance, 2.0), axis=1), -2.0)
    rows = xp.reshape(distance, (frames * size, size))
    nearest, taken = xp.full_like(weight, 2.0), ~there
    turn = xp.zeros_like(number[None, :] + offset[:, None])
    for step in range(steps):
        chosen = xp.argmax(worth, axis=1)
        new = (number[None, :] == chosen[:, None]) & ~taken
        turn, taken = xp.where(new, step, turn), taken | new
        nearest = xp.minimum(nearest, pick(rows, chosen + offset))
        worth = xp.where(taken, -1.0, weight * nearest)
    rank = xp.argsort(xp.argsort(-worth, axis=1, stable=True), axis=1, stable=True)
    return xp.where(there & taken, turn, xp.sum(xp.astype(there & taken, rank.dtype), axis=1, keepdims=True) + rank)
