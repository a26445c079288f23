"""Clients of an OpenAI server: so many at once, each of which sends its next request when it has its answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vflowopt_vllm.bench.result import Answer, Round
from vflowopt_vllm.bench.workload import Workload
from vflowopt_vllm.errors import ServingError

Messages = Sequence[Any]


def asked(url: str, served: str, conversations: Sequence[Messages], workload: Workload) -> Round:
    """One round of requests to one server.

    Args:
        url: of its API, which ends in ``/v1``.
        served: name of the model there.
        conversations: one per request.
        workload: how they are asked.

    Raises:
        ServingError: a request failed.
    """
    return asyncio.run(_round(url, served, conversations, workload))


async def _round(url: str, served: str, conversations: Sequence[Messages], workload: Workload) -> Round:
    from openai import AsyncOpenAI, OpenAIError

    waiting, answers = iter(conversations), list[Answer]()
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=None) as client:

        async def ask(own: Iterator[Messages]) -> None:
            for messages in own:
                answers.append(await _answer(client, served, messages, workload.max_tokens))

        start = time.perf_counter()
        try:
            # All take from one iterator: whoever is free gets the next request.
            await asyncio.gather(*(ask(waiting) for _ in range(workload.clients)))
        except OpenAIError as error:
            raise ServingError(f"a request failed: {str(error).splitlines()[0] or type(error).__name__}") from error
        return Round(time.perf_counter() - start, tuple(answers))


async def _answer(client: Any, served: str, messages: Messages, max_tokens: int) -> Answer:
    start = time.perf_counter()
    stream = await client.chat.completions.create(
        model=served,
        messages=messages,
        max_tokens=max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    first, usage = None, None
    async for chunk in stream:
        # The server's first chunk says who speaks, and comes with the first token, even if that has no text.
        first = first or (time.perf_counter() if chunk.choices else None)
        usage = chunk.usage or usage
    if first is None or usage is None:
        raise ServingError("the server answered without a token, or did not say how many there were")
    end = time.perf_counter()
    return Answer(first - start, end - start, usage.prompt_tokens, usage.completion_tokens)
