"""A scorer that fails after everything before it has run."""

from typing import Literal

import numpy as np

from vflowopt.components import Score, Scorer


class Failing(Scorer):
    """Scores a token too many."""

    name: Literal["failing"] = "failing"

    def score(self, context):
        return Score(context.place(np.zeros(context.layout.tokens + 1, dtype=np.float32)), {})
