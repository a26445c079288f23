"""An OpenAI server of vLLM: started, waited for, and stopped with all of its processes, whatever happens."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from vflowopt_vllm.errors import ServingError

MODULE = "vllm.entrypoints.openai.api_server"
"""``vllm serve`` by another name: that command finds its own release under the distribution's name ``vllm`` alone."""

START_SECONDS = 1800.0
"""That a server may take to load, compile and warm up."""

STOP_SECONDS = 20.0
"""That it may take to end before it is killed."""

SERVED = "served"
"""Name of the model in requests."""

_PREFIX = re.compile(r"^\(\w+[^)]*\)\s*(?:\w+ [\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
"""Process, level, time and place, which vLLM writes before its lines."""

_CAUSE = re.compile(r"^\s*(?:[\w.]*(?:Error|Exception)\b: .|.*: error: )")


class Server:
    """A server of one model on the loopback address, in a ``with`` block.

    Args:
        arguments: of the server.
        log: file that takes what it says.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log, self._port = log, _free_port()
        own = ["--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(self._port)]
        self._command = [sys.executable, "-m", MODULE, *arguments, *own]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its API."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> "Server":
        """Start it, and wait until it answers.

        Raises:
            ServingError: it ended instead, or took too long; with the cause in its own words.
        """
        with self._log.open("wb") as log:
            # A session of its own: its processes end together, and Ctrl-C reaches only the benchmark, which stops it.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def stop(self) -> None:
        """End all of its processes; gently first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # Also those that outlived their parent.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            status = self._process.poll() if self._process else None
            if status is not None:
                said = self._log.read_text(encoding="utf-8", errors="replace")
                raise ServingError(f"vLLM's server ended with status {status}: {cause(said)}")
            if time.monotonic() > end:
                raise ServingError(f"vLLM's server did not answer within {START_SECONDS / 60:.0f} minutes")
            time.sleep(1.0)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5.0):
                return True
        except (urllib.error.URLError, OSError):
            return False


def cause(said: str) -> str:
    """The first error among lines that a server wrote, and how it goes on; else the last line."""
    lines = [line for line in (_PREFIX.sub("", line).rstrip() for line in said.splitlines()) if line]
    for number, line in enumerate(lines):
        if _CAUSE.match(line):
            more = [one.strip() for one in lines[number + 1 : number + 2] if one.startswith("  ")]
            return " ".join([line.strip(), *more])
    return lines[-1].strip() if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
