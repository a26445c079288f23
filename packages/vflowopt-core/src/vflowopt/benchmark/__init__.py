"""What a benchmark of strategies measures, and what it returns; adapters do the measuring."""

from vflowopt.benchmark.generation import MODES, Generation, Mode
from vflowopt.benchmark.growth import Growth, GrowthPoint, GrowthSeries
from vflowopt.benchmark.kernels import Kernels
from vflowopt.benchmark.phases import REST, Phase, phases
from vflowopt.benchmark.report import BenchReport
from vflowopt.benchmark.result import IN_PREFILL, PARTS, UNPRUNED, Benchmark, BenchRow, Memory, Part, Rates, Work
from vflowopt.benchmark.shape import BenchShape

__all__ = [
    "IN_PREFILL",
    "MODES",
    "PARTS",
    "REST",
    "UNPRUNED",
    "BenchReport",
    "BenchRow",
    "BenchShape",
    "Benchmark",
    "Generation",
    "Growth",
    "GrowthPoint",
    "GrowthSeries",
    "Kernels",
    "Memory",
    "Mode",
    "Part",
    "Phase",
    "Rates",
    "Work",
    "phases",
]
