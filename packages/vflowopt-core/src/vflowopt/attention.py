"""Public names of :mod:`vflowopt.components.attention`."""

from vflowopt.components.attention import AttentionSource, MatrixAttention

__all__ = ["AttentionSource", "MatrixAttention"]
