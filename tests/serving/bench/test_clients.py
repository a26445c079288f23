"""Clients against a stand-in of the ``openai`` package, of which every answer takes steps of the event loop."""

import asyncio
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from vflowopt_vllm.bench.clients import asked
from vflowopt_vllm.bench.workload import Workload
from vflowopt_vllm.errors import ServingError


class OpenAIError(Exception):
    pass


class Client:
    """Answers with chunks, as a server's stream has them; notes what it is asked, and how many ask at once."""

    def __init__(self, **options):
        self.options, self.calls, self.now, self.most = options, [], 0, 0
        self.chat = SimpleNamespace(completions=self)
        Client.last = self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.closed = True

    async def create(self, **call):
        if call["messages"] == "bad":
            raise OpenAIError("Error code: 400\nmore")
        self.calls.append(call)
        return self.stream(call)

    async def stream(self, call):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        yield SimpleNamespace(choices=["assistant"], usage=None)
        await asyncio.sleep(0.03)
        yield SimpleNamespace(choices=["text"], usage=None)
        self.now -= 1
        if call["messages"] != "untold":
            yield SimpleNamespace(choices=[], usage=SimpleNamespace(prompt_tokens=60, completion_tokens=7))


@pytest.fixture(autouse=True)
def openai(monkeypatch):
    module = ModuleType("openai")
    module.AsyncOpenAI, module.OpenAIError = Client, OpenAIError
    monkeypatch.setitem(sys.modules, "openai", module)


@pytest.mark.parametrize(("clients", "most"), [(1, 1), (3, 3), (9, 7)])
def test_so_many_ask_at_once(clients, most):
    start = time.perf_counter()
    found = asked("http://127.0.0.1:1/v1", "served", list("abcdefg"), Workload(clients=clients, max_tokens=7))
    passed = time.perf_counter() - start
    used = Client.last
    assert used.most == most
    assert sorted(call["messages"] for call in used.calls) == list("abcdefg")
    assert all(call["max_tokens"] == 7 and call["extra_body"] == {"ignore_eos": True} for call in used.calls)
    assert used.closed
    assert len(found.answers) == 7
    assert all((one.prompt_tokens, one.output_tokens) == (60, 7) for one in found.answers)
    # The first chunk is the first token; it is later than its request and earlier than the answer's end.
    assert all(0.02 <= one.first_token <= one.seconds - 0.03 for one in found.answers)
    assert max(one.seconds for one in found.answers) <= found.seconds <= passed


@pytest.mark.parametrize(("last", "told"), [("bad", "a request failed: Error code: 400"), ("untold", "did not say")])
def test_a_request_that_fails_ends_the_round(last, told):
    with pytest.raises(ServingError, match=told):
        asked("http://127.0.0.1:1/v1", "served", ["a", last], Workload(clients=2))
    assert Client.last.closed
