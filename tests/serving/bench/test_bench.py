"""The command: what it refuses before it starts anything, in which order it asks, and what it leaves behind."""

import contextlib
import json

import pytest

from vflowopt_reference import path
from vflowopt_vllm import options
from vflowopt_vllm.bench import run
from vflowopt_vllm.bench.result import Answer, Round
from vflowopt_vllm.command import main
from vflowopt_vllm.errors import ServingError

MODEL = str(path("reference-qwen2vl"))


@pytest.fixture(autouse=True)
def events(monkeypatch, tmp_path):
    """Servers and clients that only note what happens to them."""
    noted = []

    class Noting(contextlib.AbstractContextManager):
        def __init__(self, arguments, log):
            self.url = next((one for one in arguments if "VFlowOpt" in one), "unpruned")
            self.arguments = arguments

        def __enter__(self):
            if "--broken" in self.arguments and self.url != "unpruned":
                raise ServingError("vLLM's server ended")
            noted.append(("start", *self.arguments))
            return self

        def __exit__(self, *_):
            noted.append(("stop", self.url))

    def asked(url, served, conversations, workload):
        noted.append(("ask", url, len(conversations), workload.clients))
        return Round(2.0, tuple(Answer(0.5, 1.0, 10, workload.max_tokens) for _ in conversations))

    monkeypatch.setattr(options, "check_interfaces", lambda: None)
    monkeypatch.setattr(run, "Server", Noting)
    monkeypatch.setattr(run, "asked", asked)
    monkeypatch.setattr(run, "_release", lambda: "0.32.0")
    monkeypatch.setattr(run.tempfile, "tempdir", str(tmp_path))
    return noted


SMALL = ("--image", "28x28", "--clients", "2", "--rounds", "2")


def test_rounds_are_interleaved_and_both_ways(events, tmp_path, capsys):
    out = tmp_path / "b.json"
    assert main(["bench", MODEL, "-s", "0.5", *SMALL, "--out", str(out), "--", "--dtype", "float32"]) == 0
    started = [one for one in events if one[0] == "start"]
    assert [one[1:7] for one in started] == [
        ("--model", MODEL, "--gpu-memory-utilization", "0.4500", "--dtype", "float32")
    ] * 2
    overrides = json.dumps({"architectures": ["VFlowOptQwen2VLForConditionalGeneration"], "vflowopt": "0.5"})
    assert started[0][7:] == ()
    assert started[1][7:] == ("--hf-overrides", overrides.replace(" ", ""))
    pruned = started[1][-1]
    # The first two warm up.
    order = [pruned, "unpruned", "unpruned", pruned, pruned, "unpruned"]
    assert [one[1] for one in events if one[0] == "ask"] == order
    assert {one[2:] for one in events if one[0] == "ask"} == {(4, 2)}
    assert [one[0] for one in events][-2:] == ["stop", "stop"]
    held = json.loads(out.read_text())
    assert [(row["name"], len(row["rounds"])) for row in held["rows"]] == [("unpruned", 2), ("0.5", 2)]
    assert "2.00 (2.00 - 2.00)" in capsys.readouterr().out
    assert [one.name for one in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.parametrize(("asked_before", "status"), [(3, 130), (4, 0), (5, 0)])
def test_an_interruption_keeps_complete_rounds(asked_before, status, events, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        if sum(one[0] == "ask" for one in events) == asked_before:
            raise KeyboardInterrupt
        return answered(*arguments)

    answered, out = run.asked, tmp_path / "b.json"
    monkeypatch.setattr(run, "asked", interrupted)
    assert main(["bench", MODEL, "-s", "0.5", *SMALL, "--out", str(out)]) == status
    assert [one[0] for one in events][-2:] == ["stop", "stop"]
    assert out.exists() == (status == 0)
    if status == 0:
        assert [len(row["rounds"]) for row in json.loads(out.read_text())["rows"]] == [1, 1]
        assert "of 1 complete rounds" in capsys.readouterr().err


def test_servers_that_are_up_are_stopped_when_one_is_not(events, tmp_path, capsys):
    assert main(["bench", MODEL, "-s", "0.5", *SMALL, "--", "--broken"]) == 2
    assert [one[0] for one in events] == ["start", "stop"]
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("vflowopt-vllm: 0.5: vLLM's server ended; what the servers said is in ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-s", "0.5", "-s", "nothing.json"], "nothing.json"),
        (["-s", "0.5", "-s", "0.5"], "'0.5' is given 2 times"),
        (["-s", "divprune@0.25,mass=1"], "mass"),
        (["--out", "missing/b.json"], "no directory"),
        (["--", "--port", "1"], "--port is set by the benchmark itself"),
        (["--", "--hf-overrides.x=1"], "--hf-overrides.x is set by the benchmark itself"),
        (["--", "--gpu_memory_utilization", "1"], "--gpu_memory_utilization is set by the benchmark itself"),
    ],
)
def test_what_is_refused_before_a_server_is_started(arguments, told, events, capsys):
    assert main(["bench", MODEL, *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert events == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image", "28"], ["--image", "0x28"], ["--image", "28x-1"], ["--clients", "0"], ["--rounds", "two"],
        ["--requests", "-1"], ["--gpu-memory-utilization", "1.5"], ["--seed", "-1"], ["--words", "0"],
    ],
)  # fmt: skip
def test_wrong_values_are_named(arguments, events, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", MODEL, *arguments])
    assert ended.value.code == 2
    assert arguments[1] in capsys.readouterr().err.splitlines()[-1]
    assert events == []


def test_options_of_a_server_are_refused_where_none_is_started(capsys):
    with pytest.raises(SystemExit):
        main(["flags", MODEL, "0.5", "--", "--port", "1"])
    assert "flags starts no server, to which --port 1 could go" in capsys.readouterr().err
