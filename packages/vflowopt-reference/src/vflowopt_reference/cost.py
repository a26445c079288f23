"""What an evaluation of the search costs: ``python -m vflowopt_reference.cost``.

Ours against the paper's own procedure, on the same samples and strategies, taking turns. The paper's generates twice
per sample and evaluation, with and without pruning, and compares the hidden states of the two prefills. Ours encodes
every sample once, which is reported apart, and then needs one pruned prefill of the decoder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .dataset import Example, held_out

if TYPE_CHECKING:
    from torch import Tensor

    from vflowopt import Strategy

    from .processor import ReferenceProcessor

ANSWER_TOKENS = 16
"""Length of a generated answer at most; the model's answers end after one word."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds.

    Attributes:
        preparation: encoding the samples, once per search.
        ours: an evaluation, mean over strategies.
        papers: the same by two full generations per sample.
    """

    preparation: float
    ours: float
    papers: float

    def whole(self, evaluations: int) -> float:
        """How many times faster a search with so many evaluations is."""
        return evaluations * self.papers / (self.preparation + evaluations * self.ours)


def compare(
    model: Any, processor: ReferenceProcessor, examples: Sequence[Example], strategies: Sequence[Strategy]
) -> Cost:
    """Seconds of both procedures.

    Raises:
        RuntimeError: they disagree.
    """
    from vflowopt.plugins import find_adapter

    samples = [dict(processor(images=[e.image], text=[processor.prompt(e.question)])) for e in examples]
    start = time.perf_counter()
    evaluator = find_adapter(model).evaluator(model, samples, processor=processor)
    preparation = time.perf_counter() - start
    evaluator.evaluate(strategies[0])  # both procedures start warm
    two_generations(model, samples[:2], strategies[0])
    ours, papers = [], []
    for strategy in strategies:
        start = time.perf_counter()
        score = evaluator.evaluate(strategy).score
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        other = two_generations(model, samples, strategy)
        papers.append(time.perf_counter() - start)
        if abs(score - other) > 1e-4:
            raise RuntimeError(f"the two procedures disagree: {score} and {other}")
    return Cost(preparation, sum(ours) / len(ours), sum(papers) / len(papers))


def two_generations(model: Any, samples: Sequence[dict[str, Any]], strategy: Strategy) -> float:
    """Mean last-token similarity from two full generations per sample."""
    import torch

    from vflowopt import prune

    total = 0.0
    for inputs in samples:
        unpruned = _last_hidden(model, inputs)
        with prune(model, strategy):
            pruned = _last_hidden(model, inputs)
        total += float(torch.nn.functional.cosine_similarity(unpruned, pruned, dim=0))
    return total / len(samples)


def _last_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Final-norm hidden state [features] of the last prompt token of a generation."""
    import torch

    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    hidden: Tensor = out.hidden_states[0][-1][0, -1]
    return hidden


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.cost",
        description="Seconds per evaluation of a search: one pruned prefill per sample against two generations.",
    )
    parser.add_argument("--samples", type=int, default=30, help="search samples (default 30)")
    parser.add_argument("--evaluations", type=int, default=60, help="of the whole search (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: the model is that small)")
    options = parser.parse_args(arguments)

    import torch

    from vflowopt import Strategy

    from . import load_model, load_processor

    torch.set_num_threads(options.threads)
    strategies = [
        Strategy.vflowopt(num_layers=9, retention=(share, 1.0, 1.0), threshold=1.5, cell=3.5)
        for share in (0.5, 0.25, 0.1)
    ]
    cost = compare(load_model(), load_processor(), held_out(options.samples, split="search"), strategies)
    print(f"preparation of {options.samples} samples: {cost.preparation:.1f} s")
    print(f"an evaluation: {cost.ours:.2f} s; with two generations per sample: {cost.papers:.2f} s")
    print(f"{cost.papers / cost.ours:.1f} times faster; a search of {options.evaluations} evaluations "
          f"{cost.whole(options.evaluations):.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()
