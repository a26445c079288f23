"""vflowopt: training-free visual token pruning for large multimodal models.

Public names are exported here; everything else may change without notice.
"""

from vflowopt.api import prune
from vflowopt.budgets.cost import CostModel
from vflowopt.budgets.latency import PrefillLatency
from vflowopt.budgets.requests import KVCacheBytes
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.errors import VFlowOptError
from vflowopt.layout import TokenLayout
from vflowopt.plans.plan import PruningPlan
from vflowopt.report import PruningReport
from vflowopt.search import OptimizeResult, optimize
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.strategy import Strategy

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
