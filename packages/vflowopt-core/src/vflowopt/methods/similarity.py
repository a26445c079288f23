"""Cosine similarity of tokens."""

from vflowopt.arrays import Array, namespace


def normalised(vectors: Array) -> Array:
    """Vectors [tokens, D] of length 1; those that are 0 stay so."""
    xp = namespace(vectors)
    length = xp.sqrt(xp.sum(vectors * vectors, axis=-1, keepdims=True))
    return vectors / xp.where(length > 0, length, 1.0)
