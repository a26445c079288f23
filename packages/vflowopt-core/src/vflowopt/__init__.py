"""vflowopt: training-free visual token pruning for large multimodal models.

Public names are exported here; everything else may change without notice.
"""

from typing import TYPE_CHECKING, Any

from vflowopt.api import prune
from vflowopt.budgets import KVCacheBytes
from vflowopt.cost import CostModel
from vflowopt.errors import VFlowOptError
from vflowopt.latency import PrefillLatency
from vflowopt.layout import TokenLayout
from vflowopt.plan import PruningPlan
from vflowopt.recycle import GridRecycler
from vflowopt.report import PruningReport
from vflowopt.schedule import Progressive
from vflowopt.scorer import CalibratedAttention
from vflowopt.strategy import Provenance, Strategy

if TYPE_CHECKING:
    from vflowopt.search import OptimizeResult, optimize

__version__ = "0.1.0"

__all__ = [
    "CalibratedAttention",
    "CostModel",
    "GridRecycler",
    "KVCacheBytes",
    "OptimizeResult",
    "PrefillLatency",
    "Progressive",
    "Provenance",
    "PruningPlan",
    "PruningReport",
    "Strategy",
    "TokenLayout",
    "VFlowOptError",
    "__version__",
    "optimize",
    "prune",
]


def __getattr__(name: str) -> Any:
    """Import the search, and with it Emukit and SciPy, only when it is used: pruning needs neither."""
    if name in ("OptimizeResult", "optimize"):
        from vflowopt import search

        return getattr(search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
