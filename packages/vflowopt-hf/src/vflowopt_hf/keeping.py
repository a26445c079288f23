"""Public name of :mod:`vflowopt_hf.search.sample_store`."""

from vflowopt_hf.search.sample_store import MemoryLimits

__all__ = ["MemoryLimits"]
