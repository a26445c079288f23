"""Models x methods x budgets x seeds on the same questions: what ``vflowopt compare`` runs.

Imports no framework and nothing of the command line; what asks a model is behind :class:`vflowopt.compare.panel.Panel`.
"""

from vflowopt.compare.cells import Cell, Result, cells_of
from vflowopt.compare.contracts import Effort, Watch
from vflowopt.compare.intervals import paired_difference, wilson
from vflowopt.compare.methods import SEARCHED, UNPRUNED, Method, read_method
from vflowopt.compare.report import write_report
from vflowopt.compare.run import Subject, by_method, fill
from vflowopt.compare.store import Store
from vflowopt.compare.table import COLUMNS, Row, rows_of

__all__ = [
    "COLUMNS",
    "SEARCHED",
    "UNPRUNED",
    "Cell",
    "Effort",
    "Method",
    "Result",
    "Row",
    "Store",
    "Subject",
    "Watch",
    "by_method",
    "cells_of",
    "fill",
    "paired_difference",
    "read_method",
    "rows_of",
    "wilson",
    "write_report",
]
