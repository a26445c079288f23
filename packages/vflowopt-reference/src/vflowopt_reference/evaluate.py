"""Accuracy per kind of question, through stock ``generate``: ``python -m vflowopt_reference.evaluate``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .dataset import Example, held_out
from .names import NAMES

if TYPE_CHECKING:
    from .processor import ReferenceProcessor


def batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Batches of examples on canvases of one size, so that little is padded."""
    by_size: dict[tuple[int, int], list[Example]] = {}
    for example in examples:
        by_size.setdefault(example.image.size, []).append(example)
    for group in by_size.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def answers(model: Any, processor: ReferenceProcessor, examples: Sequence[Example], new_tokens: int = 3) -> list[str]:
    """What ``model.generate`` says to a batch of examples, greedily decoded."""
    import torch

    prompts = [processor.prompt(example.question) for example in examples]
    inputs = processor(images=[example.image for example in examples], text=prompts)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return processor.batch_decode(out[:, inputs["input_ids"].shape[1] :])


def accuracy(
    model: Any, processor: ReferenceProcessor, examples: Sequence[Example], batch: int = 16
) -> dict[str, tuple[int, int]]:
    """Right answers and questions per kind; an answer is right if it is the whole of what was generated."""
    counts = dict.fromkeys((example.kind for example in examples), (0, 0))
    for group in batches(examples, batch):
        for example, answer in zip(group, answers(model, processor, group), strict=True):
            right, asked = counts[example.kind]
            counts[example.kind] = right + (answer == example.answer), asked + 1
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.evaluate",
        description="Answer held-out questions with stock generate() and print the accuracy per kind.",
    )
    parser.add_argument(
        "--model", default="reference", help=f"{', '.join(NAMES)}, or a directory written by vflowopt_reference.train"
    )
    parser.add_argument("--count", type=int, default=2500, help="questions (default 2500)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions (default 0)")
    parser.add_argument("--batch", type=int, default=16, help="questions per batch (default 16)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    import torch

    from . import load_model, load_processor

    torch.set_num_threads(options.threads)
    processor = load_processor(options.model)
    examples = held_out(options.count, seed=options.seed, model=processor.architecture.name)
    counts = accuracy(load_model(options.model), processor, examples, options.batch)
    counts["all"] = sum(right for right, _ in counts.values()), sum(asked for _, asked in counts.values())
    if options.json:
        print(json.dumps({kind: {"right": right, "asked": asked} for kind, (right, asked) in counts.items()}, indent=2))
        return
    for kind, (right, asked) in counts.items():
        print(f"{kind:16s} {right / max(asked, 1):.3f}  ({right} of {asked})")


if __name__ == "__main__":
    main()
