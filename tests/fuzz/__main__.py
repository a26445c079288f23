"""``make fuzz``: run many bad inputs, print how they fared by kind and by command, and fail if one fared badly."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

from fuzz.trials import Trial, Trials
from fuzz.verdict import Result, faults, run_apart
from fuzz.workspace import Workspace


def main() -> int:
    """Run the trials; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1200, help="how many; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the generator; default %(default)s")
    parser.add_argument("--processes", type=int, default=10, help="so many run as processes of their own, too")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each; default %(default)s")
    parser.add_argument("--verbose", action="store_true", help="print every message")
    options = parser.parse_args()
    started, counts, wrong = time.monotonic(), Counter[tuple[str, str, str]](), 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        space = Workspace.at(Path(folder))
        every = max(1, options.inputs // max(1, options.processes))
        for number, trial in enumerate(islice(Trials(space, options.seed), options.inputs)):
            results = [run_apart(trial, options.timeout)]
            if options.processes and number % every == 0 and all("\0" not in part for part in trial.arguments):
                results.append(_as_process(trial, options.timeout))
            found = [fault for result in results for fault in faults(trial, result)]
            ended = "faulty" if found else "refused" if results[0].code else "accepted"
            counts[trial.kind, trial.command, ended] += 1
            wrong += bool(found)
            if found or options.verbose:
                _tell(trial, results[0], found)
    _summarise(counts, time.monotonic() - started)
    return 1 if wrong else 0


def _as_process(trial: Trial, timeout: float) -> Result:
    command = [sys.executable, "-m", "vflowopt", *trial.arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Result(None, "", "", "")
    return Result(done.returncode, done.stdout, done.stderr, "")


def _tell(trial: Trial, result: Result, found: list[str]) -> None:
    typed = " ".join(part if len(part) < 80 else f"{part[:40]}... ({len(part)})" for part in trial.arguments)
    print(f"{'FAULT' if found else 'fine'}: {trial.kind}: vflowopt {typed!a}")
    for fault in found:
        print(f"    {fault}")
    print(f"    exit code {result.code}: {(result.errors or result.output)[:600]!a}")
    if result.traceback:
        print("    " + "    ".join(result.traceback.splitlines(keepends=True)[-8:]))


def _summarise(counts: Counter[tuple[str, str, str]], seconds: float) -> None:
    endings = ("refused", "accepted", "faulty")
    for title, place in (("kind", 0), ("command", 1)):
        print(f"\n{title:<16}" + "".join(f"{ending:>10}" for ending in endings))
        for name in sorted({key[place] for key in counts}):
            row = [sum(n for key, n in counts.items() if key[place] == name and key[2] == ending) for ending in endings]
            print(f"{name[:15]:<16}" + "".join(f"{number:>10}" for number in row))
    total = [sum(n for key, n in counts.items() if key[2] == ending) for ending in endings]
    print(
        f"\n{sum(total)} inputs in {seconds:.0f} s: "
        + ", ".join(f"{n} {e}" for n, e in zip(total, endings, strict=True))
    )


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else it warns in every copy of the process
    sys.exit(main())
