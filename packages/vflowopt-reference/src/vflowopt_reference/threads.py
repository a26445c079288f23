"""One model answering from several threads, as in a server: ``python -m vflowopt_reference.threads``.

Every answer is compared with the one that the same model, pruned or not, gives alone. Unpruned and pruned rounds take
turns, so that a drift of the machine's speed meets both.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

from vflowopt import Strategy, prune

from .dataset import held_out
from .names import NAMES

QUESTIONS = 8
"""Different inputs, each asked again and again."""


def answered(ask: Callable[[int], Any], alone: Sequence[Any], workers: int, count: int) -> tuple[Counter[str], float]:
    """Ask from several threads at once.

    Args:
        ask: gives the answer to a question by its number.
        alone: the right answers.
        workers: threads.
        count: how many answers to ask for.

    Returns:
        How often which outcome was seen ("right", "wrong", or an exception's type), and seconds.
    """

    def outcome(number: int) -> str:
        question = number % len(alone)
        try:
            return "right" if ask(question) == alone[question] else "wrong"
        except Exception as error:  # whatever it is, it is counted
            return type(error).__name__

    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        seen = Counter(pool.map(outcome, range(count)))
    return seen, time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.threads",
        description="Answer questions from several threads with one model, unpruned and pruned in turn.",
    )
    parser.add_argument("--model", action="append", choices=NAMES, help="may be repeated; by default two families")
    parser.add_argument("--budget", type=float, default=0.25, help="average retention (default 0.25)")
    parser.add_argument("--workers", type=int, default=4, help="threads that ask (default 4)")
    parser.add_argument("--count", type=int, default=200, help="answers of each model and row (default 200)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that they are asked in (default 5)")
    options = parser.parse_args(arguments)

    import torch

    from . import load_model, load_processor

    torch.set_num_threads(1)
    each = options.count // options.rounds
    for name in options.model or ["reference", "reference-qwen2vl"]:
        model, processor = load_model(name), load_processor(name)
        inputs = [
            processor(images=[example.image], text=[processor.prompt(example.question)])
            for example in held_out(min(QUESTIONS, each), seed=0, model=name)
        ]

        def ask(number: int, model: Any = model, inputs: Sequence[Any] = inputs) -> list[int]:
            with torch.inference_mode():
                ids = model.generate(**inputs[number], max_new_tokens=3, do_sample=False)
            return list(ids[0].tolist())

        layers = model.config.text_config.num_hidden_layers
        strategy = Strategy.vflowopt(num_layers=layers, retention=(options.budget, 1.0, 1.0), threshold=1.5, cell=3.5)
        blocks: dict[str, Callable[[], Any]] = {
            "unpruned": nullcontext,
            "pruned": partial(prune, model, strategy),
        }
        seen, seconds = {row: Counter[str]() for row in blocks}, dict.fromkeys(blocks, 0.0)
        for _ in range(options.rounds):
            for row, block in blocks.items():
                with block():
                    alone = [ask(number) for number in range(len(inputs))]
                    found, took = answered(ask, alone, options.workers, each)
                seen[row] += found
                seconds[row] += took
        for row in blocks:
            rate = seen[row].total() / seconds[row]
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen[row].items()))
            print(f"{name:18s} {row:9s} {options.workers} threads: {told}; {rate:.2f} answers per second")


if __name__ == "__main__":
    main()
