"""How far pruning moves the text tokens' hidden states, decoder layer by decoder layer (paper Figure 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vflowopt.errors import InputError

HostFloats = npt.NDArray[np.float64]
Tokens = Literal["text", "last"]
Measure = Literal["cosine", "l2"]
Discrepancies = Mapping[tuple[Tokens, Measure], HostFloats]

TOKENS: dict[Tokens, str] = {"text": "text tokens after the visual tokens", "last": "last token of the prompt"}
"""Which hidden states: the mean over every text token after the last visual one, or one token alone."""
MEASURES: dict[Measure, str] = {"cosine": "1 - cosine similarity", "l2": "relative L2 distance"}
"""How they are compared; the L2 distance is relative to the length of the unpruned hidden state."""


def cosine_distance(full: npt.NDArray[Any], pruned: npt.NDArray[Any]) -> HostFloats:
    """1 - cosine similarity along the last axis, in float64; exactly 0 between equal vectors."""
    full, pruned = full.astype(np.float64), pruned.astype(np.float64)
    # Half the squared distance of unit vectors is the same, without the cancellation.
    apart = full / _length(full)[..., None] - pruned / _length(pruned)[..., None]
    distance: HostFloats = 0.5 * (apart * apart).sum(axis=-1)
    return distance


def relative_distance(full: npt.NDArray[Any], pruned: npt.NDArray[Any]) -> HostFloats:
    """||full - pruned|| / ||full|| along the last axis, in float64."""
    full, pruned = full.astype(np.float64), pruned.astype(np.float64)
    distance: HostFloats = _length(full - pruned) / _length(full)
    return distance


def discrepancies(full: Sequence[npt.NDArray[Any]], pruned: Sequence[npt.NDArray[Any]]) -> Discrepancies:
    """Every measure of one prompt, [layers] each.

    Args:
        full: hidden states of the text tokens after each layer, [tokens, features], without pruning.
        pruned: the same with pruning.

    Raises:
        InputError: a hidden state is not finite; names the layer.
    """
    measured: dict[tuple[Tokens, Measure], HostFloats] = {}
    functions: dict[Measure, Any] = {"cosine": cosine_distance, "l2": relative_distance}
    for measure, function in functions.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.stack([function(*pair) for pair in zip(full, pruned, strict=True)])
        broken = np.flatnonzero(~np.isfinite(each).all(axis=1))
        if len(broken):
            raise InputError(
                f"hidden states after decoder layer {broken[0]} are not finite or zero, so they cannot be compared; "
                f"if the model overflows in its dtype, use another, for example bfloat16"
            )
        measured["text", measure], measured["last", measure] = each.mean(axis=1), each[:, -1]
    return measured


def _length(vectors: HostFloats) -> HostFloats:
    length: HostFloats = np.sqrt((vectors * vectors).sum(axis=-1))
    return length


@dataclass(frozen=True, eq=False)
class StrategyFlow:
    """What one strategy does to the hidden states.

    Attributes:
        name: of the strategy.
        boundaries: for each stage the decoder layer before which it prunes.
        retention: achieved average retention, mean over samples.
        values: for tokens and measure a discrepancy [samples, layers] of the hidden states after each decoder layer;
            of the last layer before the final norm.
    """

    name: str
    boundaries: tuple[int, ...]
    retention: float
    values: Discrepancies

    def mean(self, tokens: Tokens, measure: Measure) -> HostFloats:
        """Mean over samples, [layers]."""
        return np.asarray(self.values[tokens, measure].mean(axis=0))

    def spread(self, tokens: Tokens, measure: Measure) -> HostFloats:
        """Standard deviation over samples, [layers]."""
        return np.asarray(self.values[tokens, measure].std(axis=0))


@dataclass(frozen=True, eq=False)
class Flow:
    """Discrepancies of several strategies on the same samples.

    Attributes:
        num_layers: decoder layers L.
        samples: how many prompts.
        strategies: one entry each, in the order given.
    """

    num_layers: int
    samples: int
    strategies: tuple[StrategyFlow, ...]

    def describe(self) -> dict[str, Any]:
        """Everything as values that JSON knows."""
        return {
            "layers": self.num_layers,
            "samples": self.samples,
            "strategies": [
                {
                    "strategy": each.name,
                    "boundaries": list(each.boundaries),
                    "retention": each.retention,
                    **{tokens: _described(each, tokens) for tokens in TOKENS},
                }
                for each in self.strategies
            ],
        }


def _described(flow: StrategyFlow, tokens: Tokens) -> dict[str, dict[str, list[float]]]:
    return {
        measure: {"mean": flow.mean(tokens, measure).tolist(), "spread": flow.spread(tokens, measure).tolist()}
        for measure in MEASURES
    }
