"""Run a command line, and judge how it was refused."""

import json
import os
import re
import select
import signal
import time
from dataclasses import dataclass

from typer.testing import CliRunner

from fuzz.trials import Trial
from vflowopt.cli import app

LINES, WIDTH = 3, 120
"""A refusal fits into so many lines of a terminal."""

REMEDY = re.compile(
    r"\b(add|ask|at least|at most|calibrate|check|choose|delete|download|expected|for example|give|goes? with|install|"
    r"instead|leave|make|must|name|needs?|nothing|one of|only|pass|remove|replace|restore|save|see|should|"
    r"smallest feasible|takes?|there are|there is no|use|wait|write)\b"
)
"""Words by which a message says what to do, or what would be right."""


@dataclass(frozen=True)
class Result:
    """What a command did.

    Attributes:
        code: exit code; ``None`` if it did not end in time.
        output: standard output.
        errors: standard error.
        traceback: of an exception that came out of it.
    """

    code: int | None
    output: str
    errors: str
    traceback: str


def run(trial: Trial) -> Result:
    """Run it in this process."""
    import traceback

    result = CliRunner().invoke(app, list(trial.arguments))
    escaped = result.exception if not isinstance(result.exception, SystemExit) else None
    trace = "".join(traceback.format_exception(escaped)) if escaped else ""
    return Result(result.exit_code, result.stdout, result.stderr, trace)


def run_apart(trial: Trial, seconds: float) -> Result:
    """Run it in a copy of this process, which has everything imported; it is ended after so many seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(vars(run(trial)), pipe)
        os._exit(0)
    os.close(writing)
    told, deadline = b"", time.monotonic() + seconds
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            told += part
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        return Result(**json.loads(told))
    except ValueError:
        return Result(None, "", "", "")


def faults(trial: Trial, result: Result) -> list[str]:
    """What is wrong with how the command ended; nothing, if it was refused well, or had no reason to be."""
    if result.code is None:
        return ["did not end"]
    if result.traceback or "Traceback (most recent call last)" in result.errors:
        return [f"traceback: {(result.traceback or result.errors).strip().splitlines()[-1][:200]}"]
    if result.code == 0:
        return ["accepted"] if trial.certain else []
    if result.code != 2:
        return [f"exit code {result.code}"]
    found = []
    start = result.errors.find("vflowopt: error: ")  # progress and remarks may come before
    if start < 0:
        return ["no message"]
    lines = result.errors[start:].strip().splitlines()
    message = " ".join(lines)
    if len(lines) > LINES or len(message) > LINES * WIDTH:
        found.append(f"{len(lines)} lines of {len(message)} characters")
    if not any(_named(name, message) for name in trial.names):
        found.append(f"names none of {trial.names}")
    if not REMEDY.search(message):
        found.append("no remedy")
    if result.output:
        found.append("results in spite of the refusal")
    left = [path.name for path in trial.folder.rglob("*.part")]
    if left:
        found.append(f"left behind {left}")
    return found


def _named(name: str, message: str) -> bool:
    return any(form[:20] in message for form in (name or "''", repr(name)[1:-1], ascii(name)[1:-1]) if form)
