"""Kernels that do in few launches what stock operators do in many, and which of them serve where.

Optional everywhere: whoever asks for one does without where there is none.
"""
