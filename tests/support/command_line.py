"""Commands in this process, and one that is killed."""

import os
import signal
import time

import pytest
from typer.testing import CliRunner

from vflowopt.cli import app

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
"""Of tests that kill a copy of their process."""


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
    """Run a command in a copy of this process, kill it when a file holds so many results; the whole lines by then."""
    child = os.fork()
    if child == 0:
        try:
            invoke(*arguments)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 300
    while not cells.exists() or cells.read_bytes().count(b'{"result"') < results:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = cells.read_bytes()
    return before[: before.rfind(b"\n") + 1]
