"""Hidden states of the text tokens after every decoder layer, with and without pruning (paper Figure 5)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vflowopt import Strategy
from vflowopt.adapter import Inputs
from vflowopt.arrays import to_numpy
from vflowopt.benchmark.flow import MEASURES, TOKENS, Discrepancies, Flow, StrategyFlow, discrepancies
from vflowopt.errors import InputError
from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.requirements import check_fits
from vflowopt_hf.search.evaluator import HiddenStateEvaluator
from vflowopt_hf.search.sample import Sample

States = list[npt.NDArray[np.float32]]
"""Hidden states [tokens, features] after each decoder layer."""


def measure_flow(
    family: Family,
    model: Any,
    samples: Iterable[Inputs],
    strategies: Mapping[str, Strategy],
    statistics: PixelStatistics,
    on_task: Callable[[int, int], None] | None = None,
) -> Flow:
    """Compare hidden states of every sample under every strategy with the unpruned ones.

    Each sample is encoded once; then it costs one decoder prefill unpruned and one per strategy, without cache.

    Args:
        family: the model's family.
        model: the model; not changed.
        samples: processor outputs of batch size 1 with at least one image or video each, and text after it.
        strategies: by name.
        statistics: pixel normalisation to invert for patch entropy.
        on_task: called with how many prefills are done, and of how many.

    Raises:
        InputError: no samples, no strategies, a sample that does not fit, or hidden states that are not finite.
        StrategyError, BudgetError: a strategy does not fit the model or a sample.
        PruningStateError: the model is being pruned.
    """
    if not strategies:
        raise InputError("there is no strategy to compare with the unpruned model; give one at least")
    for strategy in strategies.values():
        check_fits(family, model, strategy)
    evaluator = HiddenStateEvaluator(family, model, samples, "last-token", statistics)
    decoder = family.decoder(model)
    found: dict[str, list[Discrepancies]] = {name: [] for name in strategies}
    retentions: dict[str, list[float]] = {name: [] for name in strategies}
    total = len(evaluator.samples) * (1 + len(strategies))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if on_task:
            on_task(done, total)

    for index, sample in enumerate(evaluator.samples):
        rows = _text_rows(index, sample)
        with layer_outputs(decoder, rows) as full, torch.no_grad():
            decoder(**sample.call)
        advance()
        for name, strategy in strategies.items():
            with layer_outputs(decoder, rows) as pruned:
                retentions[name].append(evaluator.pruned_hidden(sample, strategy)[1])
            found[name].append(discrepancies(full, pruned))
            advance()
    flows = (
        StrategyFlow(
            name=name,
            boundaries=strategy.schedule.boundaries,
            retention=sum(retentions[name]) / len(retentions[name]),
            values=_stacked(found[name]),
        )
        for name, strategy in strategies.items()
    )
    return Flow(evaluator.num_layers, len(evaluator.samples), tuple(flows))


@contextmanager
def layer_outputs(decoder: nn.Module, rows: int) -> Iterator[States]:
    """Collects the last rows of what each decoder layer returns, in forwards of batch size 1 inside the block.

    Stages keep rows in order and never drop text, so that the last rows are the same tokens in every layer, pruned
    or not, as long as no visual token is among them.

    Args:
        decoder: a transformers text decoder with ``layers``.
        rows: how many.
    """
    states: States = []
    with ExitStack() as hooks:
        for layer in decoder.layers:  # type: ignore[union-attr]
            hooks.callback(layer.register_forward_hook(partial(_collect, states, rows)).remove)
        yield states


def _collect(states: States, rows: int, _layer: nn.Module, _args: tuple[Any, ...], hidden: Tensor) -> None:
    states.append(np.array(to_numpy(hidden[0, -rows:])))  # a copy: upstream may add to its output in place


def _text_rows(index: int, sample: Sample) -> int:
    """How many rows follow the last visual token.

    Raises:
        InputError: none.
    """
    rows = sample.following
    if rows == 0:
        raise InputError(f"sample {index} ends with a visual token; its hidden states need text after the images")
    return rows


def _stacked(samples: list[Discrepancies]) -> Discrepancies:
    """[samples, layers] of every measure."""
    return {
        (tokens, measure): np.stack([each[tokens, measure] for each in samples])
        for tokens in TOKENS
        for measure in MEASURES
    }
