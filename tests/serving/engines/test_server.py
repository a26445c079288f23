"""The OpenAI server of vLLM with the flags of ``vflowopt-vllm flags``, asked by its client; on one worker and two."""

import base64
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from openai import APIConnectionError, BadRequestError, OpenAI

from support.serving import GENERATED, on_transformers, processor_of, strategy_at
from vflowopt_reference import held_out, load_model

pytestmark = pytest.mark.vllm

NAME, COUNT = "reference-qwen2vl", 8
PATIENCE = 600
COMMAND = shlex.quote(str(Path(sys.executable).with_name("vflowopt-vllm")))
SERVER = f"exec {shlex.quote(sys.executable)} -W ignore -m vllm.entrypoints.openai.api_server --host 127.0.0.1"


def start(model, flags, **options):
    """The server's process, a group of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    line = f"{SERVER} --model {shlex.quote(str(model))} --dtype float32 --max-model-len 5120 --enforce-eager {flags}"
    return subprocess.Popen(["sh", "-c", line], env=environment, start_new_session=True, text=True, **options)


@contextmanager
def server(model, flags):
    """A client of a server that is ready; the server is gone at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(model, f"--port {port} {flags}")
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=PATIENCE)
        until = time.monotonic() + PATIENCE
        while not answers(client):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(1)
        yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(client):
    try:
        return bool(client.models.list().data)
    except APIConnectionError:
        return False


def ask(client, model, example):
    picture = io.BytesIO()
    example.image.save(picture, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": example.question}]
    return client.chat.completions.create(
        model=str(model),
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=GENERATED,
        extra_body={"ignore_eos": True, "return_token_ids": True},
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_server(workers, checkpoint, questions, tmp_path, figures):
    model, examples, asked = checkpoint(NAME), held_out(COUNT, model=NAME), questions(NAME, COUNT)[0]
    expected = on_transformers(load_model(model), processor_of(model), asked, strategy_at(0.25))
    file = strategy_at(0.25).save(tmp_path / "my strategy.json")
    flags = f"$({COMMAND} flags {shlex.quote(str(model))} {shlex.quote(str(file))})"
    with server(model, f"{flags} --tensor-parallel-size {workers}") as client, ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda example: ask(client, model, example), examples))
        with pytest.raises(BadRequestError, match="1 more image placeholders than images"):
            ask(client, model, replace(examples[0], question="<image>"))
        assert ask(client, model, examples[0]).choices[0].token_ids == expected[0].tokens
    assert [reply.usage.prompt_tokens for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.choices[0].token_ids for reply in replies] == [reply.tokens for reply in expected]
    figures.append(f"server, {workers} of tensor parallel, {NAME} at 25%: {COUNT} of {COUNT} answers the same")


def test_a_server_that_cannot_be_started_says_why_in_its_last_line(checkpoint):
    overrides = '\'{"architectures":["VFlowOptQwen2VLForConditionalGeneration"],"vflowopt":"nothing.json"}\''
    process = start(checkpoint(NAME), f"--hf-overrides {overrides}", stderr=subprocess.PIPE)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    last = told.strip().splitlines()[-1]
    assert "ServingError" in last
    assert "nothing.json" in last
