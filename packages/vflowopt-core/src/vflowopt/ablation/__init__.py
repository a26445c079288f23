"""What the parts of the method, its objective, its samples and its search are worth: what ``vflowopt ablate`` runs.

Every row of the paper's ablations is a :class:`Variant`, a way to come by a strategy; :mod:`vflowopt.compare` answers
the questions with it, keeps the cell and counts. A variant that several studies share is one cell.
"""

from vflowopt.ablation.parts import PARTS, Part
from vflowopt.ablation.report import write_report
from vflowopt.ablation.run import Ablation, run
from vflowopt.ablation.searches import Searches
from vflowopt.ablation.studies import OBJECTIVES, STUDIES, Line, Plan, Study, cells_of, studies_of
from vflowopt.ablation.table import Table
from vflowopt.ablation.variants import MAIN_SET, Recipe, Variant

__all__ = [
    "MAIN_SET",
    "OBJECTIVES",
    "PARTS",
    "STUDIES",
    "Ablation",
    "Line",
    "Part",
    "Plan",
    "Recipe",
    "Searches",
    "Study",
    "Table",
    "Variant",
    "cells_of",
    "run",
    "studies_of",
    "write_report",
]
