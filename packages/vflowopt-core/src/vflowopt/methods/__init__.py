"""Published pruning methods other than this library's own, as components: one file each."""

from vflowopt.components import Component
from vflowopt.methods.cdpruner import CDPruner
from vflowopt.methods.dart import DART
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.evs import EVS
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.fastv import FastV
from vflowopt.methods.fitprune import FitPrune
from vflowopt.methods.flashvid import FlashVID
from vflowopt.methods.flashvid_recycler import SpatiotemporalTrees
from vflowopt.methods.hiprune import HiPrune
from vflowopt.methods.lrcp import LRCP
from vflowopt.methods.mmr import MMR
from vflowopt.methods.pyramiddrop import PyramidDrop
from vflowopt.methods.scope import SCOPE
from vflowopt.methods.sparsevlm import SparseVLM
from vflowopt.methods.sparsevlm_adaptive import AdaptiveSparseVLM
from vflowopt.methods.sparsevlm_plus import SparseVLMPlus
from vflowopt.methods.sparsevlm_recycler import DensityPeaks
from vflowopt.methods.vidcom2 import VidCom2
from vflowopt.methods.visionzip import ContextualTokens, VisionZip
from vflowopt.methods.vispruner import VisPruner
from vflowopt.methods.vtc_cls import VTCCLS

METHODS: tuple[type[Component], ...] = (
    FasterVLM,
    VTCCLS,
    DivPrune,
    MMR,
    SCOPE,
    VisPruner,
    LRCP,
    CDPruner,
    HiPrune,
    EVS,
    VidCom2,
    FlashVID,
    SpatiotemporalTrees,
    VisionZip,
    ContextualTokens,
    FastV,
    DART,
    PyramidDrop,
    FitPrune,
    SparseVLM,
    SparseVLMPlus,
    AdaptiveSparseVLM,
    DensityPeaks,
)
