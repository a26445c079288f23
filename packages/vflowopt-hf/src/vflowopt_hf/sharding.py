"""Public name of :mod:`vflowopt_hf.search.sharding`."""

from vflowopt_hf.search.sharding import joined

__all__ = ["joined"]
