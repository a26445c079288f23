"""Two processes search together: `torchrun --nproc-per-node 2 sharded_search.py DIRECTORY`; started by a test.

Each section writes what process 0 found to DIRECTORY, as the test expects it.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from support.tiny import image_inputs, tiny_onevision
from vflowopt.errors import ProcessError
from vflowopt.plugins import find_adapter
from vflowopt.search import search
from vflowopt_hf.search.sharding import ProcessGroup, joined

SIZES = [(42, 42), (80, 60), (30, 120), (60, 60), (42, 84)]
SETTINGS = {"budget": 0.5, "initial": 4, "seed": 3}


def samples(model: Any) -> list[Any]:
    """Five of them: two processes have different numbers."""
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate(SIZES)]


def main(directory: Path) -> None:
    """Run all sections."""
    model = tiny_onevision()
    data, adapter, found = samples(model), find_adapter(model), {}
    with joined(timeout=timedelta(seconds=60)) as processes:
        assert processes.size == 2

        def build() -> Any:
            return adapter.evaluator(model, processes.own(data))

        def attempt(name: str, work: Callable[[Any], Any], build: Callable[[], Any] = build) -> None:
            """Note what comes of it in process 0."""
            try:
                evaluator = processes.evaluator(build)
                result = processes.lead(evaluator, lambda: work(evaluator))
            except (ProcessError, MemoryError) as error:
                result = str(error)
            if processes.rank == 0:
                found[name] = result

        def about(evaluator: Any) -> list[Any]:
            return [evaluator.fingerprint, [len(units) for units in evaluator.units], evaluator.lengths]

        # The journal of a serial search goes on in two processes, and the other way round.
        def goes_on(evaluator: Any) -> list[float]:
            result = search(evaluator, **SETTINGS, iterations=2, journal=directory / "serial.jsonl")
            return [entry.score for entry in result.history]

        def begins(evaluator: Any) -> int:
            result = search(evaluator, **SETTINGS, iterations=1, journal=directory / "sharded.jsonl")
            return len(result.history)

        attempt("about", about)
        attempt("goes on", goes_on)
        attempt("begins", begins)

        def unbuildable() -> Any:
            if processes.rank == 1:
                raise MemoryError("no room for the model")
            return build()

        def misled() -> Any:
            return adapter.evaluator(model, data[: 3 + processes.rank])

        def spoiled(action: Callable[[], object]) -> Callable[[], Any]:
            """Process 1 does something else in its third evaluation."""

            def built() -> Any:
                evaluator, calls = build(), []
                outcomes = evaluator.outcomes

                def spoilt(*arguments: Any) -> Any:
                    calls.append(arguments)
                    if processes.rank == 1 and len(calls) == 3:
                        action()
                    return outcomes(*arguments)

                evaluator.outcomes = spoilt
                return evaluator

            return built

        def fail() -> None:
            raise RuntimeError("out of memory")

        def interrupt() -> None:
            os.kill(os.getpid(), signal.SIGINT)

        def run(evaluator: Any) -> list[Any]:
            result = search(evaluator, **SETTINGS, iterations=0)
            return [result.interrupted, len(result.history)]

        attempt("unbuildable", run, unbuildable)
        try:
            processes.evaluator(misled)
        except ValueError as error:
            found["misled"] = str(error)
        attempt("failed", run, spoiled(fail))
        attempt("interrupted", run, spoiled(interrupt))

        # Process 1 does not answer until process 0 has given it up.
        hasty, given_up = (
            ProcessGroup(processes.rank, 2, dist.new_group(timeout=timedelta(seconds=1))),
            directory / "over",
        )
        while processes.rank == 1 and not given_up.exists():
            time.sleep(0.05)
        try:
            hasty.exchange("here")
        except ProcessError as error:
            found["hung"] = str(error)
        given_up.touch()
        attempt("gone", run, spoiled(lambda: os._exit(0)))
        (directory / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
