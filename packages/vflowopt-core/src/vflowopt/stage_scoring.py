"""Public names of :mod:`vflowopt.components.stage_scoring`."""

from vflowopt.components.stage_scoring import (
    DECODER_ATTENTION,
    FittedScorer,
    Heads,
    ReceivedAttention,
    StageContext,
    StageScorer,
)

__all__ = ["DECODER_ATTENTION", "FittedScorer", "Heads", "ReceivedAttention", "StageContext", "StageScorer"]
