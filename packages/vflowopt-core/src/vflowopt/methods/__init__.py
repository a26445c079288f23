"""Published pruning methods other than this library's own, as components: one file each."""

from vflowopt.components import Component
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.fastv import FastV
from vflowopt.methods.fitprune import FitPrune
from vflowopt.methods.pyramiddrop import PyramidDrop
from vflowopt.methods.sparsevlm import SparseVLM
from vflowopt.methods.visionzip import ContextualTokens, VisionZip

METHODS: tuple[type[Component], ...] = (
    FasterVLM,
    DivPrune,
    VisionZip,
    ContextualTokens,
    FastV,
    PyramidDrop,
    FitPrune,
    SparseVLM,
)
