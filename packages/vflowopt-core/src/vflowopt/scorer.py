"""Public names of :mod:`vflowopt.components.scorer`."""

from vflowopt.components.scorer import CalibratedAttention, calibrated_attention, calibration_patches, entropy_term

__all__ = ["CalibratedAttention", "calibrated_attention", "calibration_patches", "entropy_term"]
