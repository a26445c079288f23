"""What one evaluation of a search costs: ours against the paper's own procedure, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vflowopt import Strategy

    from ..dataset import Example

ANSWER_TOKENS = 16
"""Length of a generated answer at most; the model's answers end after one word."""


def compare(model: Any, processor: Any, examples: Sequence[Example], strategies: Sequence[Strategy]) -> dict[str, Any]:
    """Seconds per evaluation of both procedures on the same samples and strategies, taking turns.

    The paper's procedure generates twice per sample and evaluation, with and without pruning, and compares the hidden
    states of the two prefills. Ours encodes every sample once (reported apart) and then needs one decoder prefill.
    """
    from vflowopt_hf.adapters import llava_onevision

    samples = [dict(processor(images=[e.image], text=[processor.prompt(e.question)])) for e in examples]
    start = time.perf_counter()
    evaluator = llava_onevision.evaluator(model, samples, processor=processor)
    preparation = time.perf_counter() - start
    evaluator.evaluate(strategies[0])  # both procedures start warm
    _two_generations(model, samples[:2], strategies[0])
    ours, theirs = [], []
    for strategy in strategies:
        start = time.perf_counter()
        score = evaluator.evaluate(strategy).score
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        other = _two_generations(model, samples, strategy)
        theirs.append(time.perf_counter() - start)
        if abs(score - other) > 1e-4:
            raise RuntimeError(f"the two procedures disagree: {score} and {other}")
    return {
        "samples": len(samples),
        "evaluations": len(strategies),
        "preparation_seconds": preparation,
        "seconds_per_evaluation": sum(ours) / len(ours),
        "seconds_per_evaluation_paper": sum(theirs) / len(theirs),
    }


def _two_generations(model: Any, samples: Sequence[dict[str, Any]], strategy: Strategy) -> float:
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


def _last_hidden(model: Any, inputs: dict[str, Any]) -> Any:
    """Final-norm hidden state of the last prompt token of a generation."""
    import torch

    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            output_hidden_states=True,
            return_dict_in_generate=True,
        )
    return out.hidden_states[0][-1][0, -1]
