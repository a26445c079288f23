"""Trains the shipped weights: ``python -m vflowopt_reference.train --out DIR``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from .names import NAMES


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.train",
        description="Train a reference model on procedural scenes (CPU, no downloads). The defaults are the recipes of "
        "the shipped weights. Run the same command again to go on after an interruption.",
    )
    parser.add_argument("--model", choices=NAMES, default=NAMES[0], help=f"which one (default {NAMES[0]})")
    parser.add_argument("--out", type=Path, required=True, help="directory for checkpoint.pt and weights/")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights and data (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints (default 100)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply every phase's steps, e.g. 0.01 to try it out"
    )
    options = parser.parse_args(arguments)

    import torch

    from .architectures import named
    from .training.run import Run, shortened, train

    torch.set_num_threads(options.threads)
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"[{time.monotonic() - started:7.1f} s] {line}", flush=True)

    architecture = named(options.model)
    phases = architecture.phases if options.scale == 1 else shortened(architecture.phases, options.scale)
    weights = train(Run(architecture, options.out, phases, seed=options.seed, every=options.every, log=log))
    log(f"weights in {weights}")


if __name__ == "__main__":
    main()
