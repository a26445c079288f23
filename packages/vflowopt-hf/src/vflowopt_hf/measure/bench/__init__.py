"""Time the parts of a pruned prefill against the unpruned one, interleaved in one process."""

from vflowopt_hf.measure.bench.growth import measure_growth
from vflowopt_hf.measure.bench.run import Bench

__all__ = ["Bench", "measure_growth"]
