"""A server is waited for and stopped with all of its processes; a stand-in plays vLLM's."""

import contextlib
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

from vflowopt_vllm.bench import server
from vflowopt_vllm.bench.server import Server, cause
from vflowopt_vllm.errors import ServingError

STAND_IN = """
    import http.server, os, signal, subprocess, sys
    print("said", sys.argv[1:], flush=True)
    if "--wrong" in sys.argv:
        raise ValueError("the option is wrong")
    if "--deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(sys.argv[sys.argv.index("--pids") + 1], "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "stand_in_of_vllm.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(server, "MODULE", "stand_in_of_vllm")
    monkeypatch.setattr(server, "STOP_SECONDS", 1.0)


def runs(process):
    """Whether it does more than wait for its parent to notice that it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(processes):
    """Whether all of them end; who is killed has to be given a moment."""
    patience = time.monotonic() + 10
    while any(map(runs, processes)) and time.monotonic() < patience:
        time.sleep(0.05)
    return not any(map(runs, processes))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("options", [(), ("--deaf",)])
@pytest.mark.parametrize("interrupted", [False, True])
def test_it_answers_inside_the_block_and_is_gone_after_it(options, interrupted, tmp_path):
    pids, log = tmp_path / "pids", tmp_path / "log"
    with contextlib.suppress(KeyboardInterrupt), Server(["--pids", str(pids), *options], log) as one:
        processes = pids.read_text().split()
        with urllib.request.urlopen(one.url) as answer:
            assert answer.status == 200
        assert all(map(runs, processes))
        if interrupted:
            raise KeyboardInterrupt
    assert ended(processes)
    assert "'--served-model-name', 'served', '--host', '127.0.0.1', '--port'" in log.read_text()


def test_one_that_does_not_come_up_says_why(tmp_path):
    with (
        pytest.raises(ServingError, match="ended with status 1: ValueError: the option is wrong"),
        Server(["--wrong"], tmp_path / "log"),
    ):
        pass


REFUSED = """\
(APIServer pid=21) INFO 11-27 15:26:58 [model.py:733] Resolved architecture: some Error: none
(EngineCore pid=24) ERROR 11-27 15:28:10 [core.py:1510] EngineCore failed to start.
(EngineCore pid=24) ERROR 11-27 15:28:10 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=24) ERROR 11-27 15:28:10 [core.py:1510]   File "core.py", line 1482, in run_engine_core
(EngineCore pid=24) ERROR 11-27 15:28:10 [core.py:1510] ValueError: no memory is left
RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (REFUSED, "ValueError: no memory is left"),
        (
            "(APIServer pid=2) vflowopt_vllm.errors.ServingError: strategy 'x' has mass\n",
            "vflowopt_vllm.errors.ServingError: strategy 'x' has mass",
        ),
        ("pydantic.ValidationError: 1 validation error\n  Value error, too long\n", "error Value error, too long"),
        ("usage: api_server.py\napi_server.py: error: unrecognized arguments: --x\n", "arguments: --x"),
        ("loading\nKilled\n\n", "Killed"),
        ("", "it said nothing"),
    ],
)
def test_the_cause_is_found_in_what_it_said(said, told):
    assert cause(said).endswith(told)
    assert "\n" not in cause(said)
