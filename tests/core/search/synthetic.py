"""Evaluators without a model: a smooth function of the strategy, and noise that the strategy itself decides."""

import math
import statistics
import time
import zlib

import numpy as np

from vflowopt.adapter import Evaluation
from vflowopt.layout import TokenLayout
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import values_of


def grid(rows: int, columns: int, *, newline: bool = False, views: int = 1) -> TokenLayout:
    """Layout of ``views`` grids, with a structural token after each row if ``newline``."""
    places = []
    for view in range(views):
        for row in range(rows):
            places += [(view, row, column) for column in range(columns)]
            places += [(-1, -1, -1)] * newline
    return TokenLayout(np.array(places, dtype=np.int64).reshape(-1, 3))


class Synthetic:
    """Best at a front-loaded split, t = 4, no entropy, a = 3.5, mass 0.7, no separators and the paper's scorer.

    ``true`` is without noise, which is relative to what a score lacks of 1.
    """

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
        retention = strategy.average_retention(self.num_layers)
        wanted = shape * retention / shape.mean()
        values = values_of(strategy)
        regret = 3.0 * ((k - np.minimum(wanted, 1.0)) ** 2).sum() / k[0] ** 2
        regret += 0.5 * (np.log1p(values["threshold"]) - np.log(5.0)) ** 2
        regret += 0.1 * np.log1p(values["entropy_weight"]) ** 2
        regret += 0.4 * np.log(values["cell"] / 3.5) ** 2
        regret += 0.5 * (values["mass"] - 0.7) ** 2
        regret += 0.1 * (values["separators"] != "drop") + 0.3 * (values["scorer"] != "calibrated-attention")
        return float(1.0 - 0.1 * (regret + 0.05 / retention**0.5))

    def evaluate(self, strategy: Strategy) -> Evaluation:
        self.calls.append(strategy)
        time.sleep(self.pause)
        draw = np.random.default_rng(zlib.crc32(strategy.to_json().encode())).normal()
        score = 1.0 - (1.0 - self.true(strategy)) * math.exp(self.noise * draw)
        return Evaluation(score, strategy.average_retention(self.num_layers))


class Sampled(Synthetic):
    """The same with samples that can be evaluated apart; the noise is each sample's own."""

    def __init__(self, samples=30, **options):
        super().__init__(units=[[grid(14, 14)]] * samples, **options)
        self.asked: list[tuple[Strategy, tuple[int, ...]]] = []

    def similarity(self, strategy: Strategy, sample: int) -> float:
        draw = np.random.default_rng(zlib.crc32(f"{sample}{strategy.to_json()}".encode())).normal()
        return 1.0 - (1.0 - self.true(strategy)) * math.exp(self.noise * draw - self.noise**2 / 2)

    def evaluate(self, strategy: Strategy) -> Evaluation:
        return self.evaluate_on(strategy, range(len(self.units)))

    def evaluate_on(self, strategy: Strategy, samples) -> Evaluation:
        self.calls.append(strategy)
        self.asked.append((strategy, tuple(samples)))
        similarities = tuple(self.similarity(strategy, sample) for sample in samples)
        return Evaluation(
            statistics.fmean(similarities), strategy.average_retention(self.num_layers), similarities=similarities
        )
