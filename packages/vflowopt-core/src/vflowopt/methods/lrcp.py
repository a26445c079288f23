"""LRCP: the tokens that a few directions do not explain.

Lu et al., "LRCP: Low-Rank Compressibility Guided Visual Token Pruning for Efficient LVLMs", 2026, arXiv 2605.15621.
No code is public.

Visual tokens lie close to a subspace of few dimensions, the background. With the mean m of the embeddings as they enter
the decoder and the first r principal components P of them, a token is worth what of it lies outside:

    I_i = | (x_i - m) - P P' (x_i - m) |

Tokens are ranked once, before the LLM. No attention is looked at, so every family offers what it needs.

What is ours: r. It is an option, 8 by default. Also that principal components are those of centred embeddings, not
scaled to length 1, as they are by definition. Structural tokens take no part.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, flaw, namespace, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.ordering import Patched


class LRCP(Scorer):
    """Distance from the subspace of the first principal components.

    Cost: the eigenvectors of a symmetric matrix with as many rows as there are tokens or features, whatever is less.
    Libraries wait for these on an accelerator.

    Attributes:
        rank: r, dimensions of the background; with 0 all of a token lies outside.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["lrcp"] = "lrcp"
    rank: Annotated[int, Field(ge=0)] = 8

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        features = context.features
        patched = Patched.of(context.layout, features)
        if not patched.tokens.shape[0]:
            return Score(0 * features[:, 0], {})
        wrong = flaw(features)
        sound = namespace(features).where(namespace(features).isfinite(wrong), features, 0.0)  # eigh would fail
        return Score(patched.spread(residual(pick(sound, patched.tokens), self.rank) + wrong), {})


def residual(features: Array, rank: int) -> Array:
    """What lies outside the first principal components.

    Args:
        features: float32 [tokens, D]; at least one token.
        rank: how many components.

    Returns:
        float32 [tokens], lengths.
    """
    xp = namespace(features)
    centred = features - xp.mean(features, axis=0, keepdims=True)
    if features.shape[0] < features.shape[1]:
        # Eigenvectors u of X X' have eigenvalues l, and the components of X along them are u sqrt(l).
        values, vectors = xp.linalg.eigh(centred @ xp.matrix_transpose(centred))
        inside = vectors * xp.sqrt(xp.clip(values, 0.0, None))[None, :]
    else:
        _, vectors = xp.linalg.eigh(xp.matrix_transpose(centred) @ centred)
        inside = centred @ vectors
    first = inside[:, max(0, inside.shape[1] - rank) :]  # eigenvalues ascend
    whole = xp.sum(centred * centred, axis=1)
    return xp.sqrt(xp.clip(whole - xp.sum(first * first, axis=1), 0.0, None))
