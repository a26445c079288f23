"""An evaluator without a model: a smooth function of the strategy plus noise that the strategy itself decides."""

import time
import zlib

import numpy as np

from vflowopt.adapter import Evaluation
from vflowopt.layout import TokenLayout
from vflowopt.strategies.strategy import Strategy


def grid(rows: int, columns: int, *, newline: bool = False, views: int = 1) -> TokenLayout:
    """Layout of ``views`` grids, with a structural token after each row if ``newline``."""
    places = []
    for view in range(views):
        for row in range(rows):
            places += [(view, row, column) for column in range(columns)]
            places += [(-1, -1, -1)] * newline
    return TokenLayout(np.array(places, dtype=np.int64).reshape(-1, 3))


class Synthetic:
    """Best at a front-loaded split, t = 4, no entropy, a = 3.5; ``true`` is without noise."""

    def __init__(self, *, num_layers=9, units=None, noise=0.0, fingerprint="synthetic", pause=0.0):
        self.num_layers = num_layers
        self.units = [[grid(14, 14)]] if units is None else units
        self.fingerprint = fingerprint
        self.noise = noise
        self.pause = pause
        self.calls: list[Strategy] = []

    def true(self, strategy: Strategy) -> float:
        k = np.array(strategy.schedule.cumulative)
        shape = 0.6 ** np.arange(len(k))
        wanted = shape * strategy.average_retention(self.num_layers) / shape.mean()
        scorer = strategy.scorer
        regret = 3.0 * ((k - np.minimum(wanted, 1.0)) ** 2).sum() / k[0] ** 2
        regret += 0.5 * (np.log1p(scorer.threshold) - np.log(5.0)) ** 2
        regret += 0.1 * np.log1p(scorer.entropy_weight) ** 2
        regret += 0.4 * np.log(strategy.recycler.cell / 3.5) ** 2
        return float(1.0 - 0.1 * regret)

    def evaluate(self, strategy: Strategy) -> Evaluation:
        self.calls.append(strategy)
        time.sleep(self.pause)
        draw = np.random.default_rng(zlib.crc32(strategy.to_json().encode())).normal()
        return Evaluation(self.true(strategy) + self.noise * draw, strategy.average_retention(self.num_layers))
