"""Commands in this process, and one that is killed."""

import os
import signal
import subprocess
import sys
import time

from typer.testing import CliRunner

from vflowopt.cli import app


def invoke(*arguments):
    """The result of a command that must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr or result.exception
    return result


def complaint(*arguments):
    """The one line in which a command that must be refused says why."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("vflowopt: error: ")]
    return line


def killed_after(results, cells, *arguments):
    """Run a command in a process of its own, kill it when a file holds so many results, and return its whole lines."""
    command = [sys.executable, "-m", "vflowopt", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())
    deadline = time.monotonic() + 300
    while not cells.exists() or cells.read_bytes().count(b'{"result"') < results:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = cells.read_bytes()
    return before[: before.rfind(b"\n") + 1]
