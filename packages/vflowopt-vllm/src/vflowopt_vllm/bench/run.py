"""The benchmark: all servers up at once, asked in turns, so that a machine that drifts drifts for all of them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vflowopt.errors import named
from vflowopt_vllm.bench.clients import asked
from vflowopt_vllm.bench.result import Round, ServedRow, ServingBenchmark
from vflowopt_vllm.bench.server import SERVED, Server
from vflowopt_vllm.bench.subjects import Subject
from vflowopt_vllm.bench.workload import Workload
from vflowopt_vllm.errors import ServingError


def measure(
    model: str,
    subjects: Sequence[Subject],
    arguments: Sequence[str],
    workload: Workload,
    rounds: int,
    memory: float,
    say: Callable[[str], None],
) -> ServingBenchmark:
    """Serve a model in several ways and ask each server the same.

    Args:
        model: directory or hub id of a checkpoint.
        subjects: what is served, unpruned first.
        arguments: further ones of every server.
        workload: what is asked in every round.
        rounds: how many are measured; one before them warms up.
        memory: share of the device's memory that the servers get, all together.
        say: told what is being done.

    Raises:
        ServingError: a server does not come up, or a request fails.
    """
    # Servers of equal memory: one that has more of it would take more requests at once.
    common = ["--model", model, "--gpu-memory-utilization", f"{memory / len(subjects):.4f}", *arguments]
    logs = Path(tempfile.mkdtemp(prefix="vflowopt-vllm-"))
    servers = {one.name: Server([*common, *one.arguments], logs / f"{n}.log") for n, one in enumerate(subjects)}
    try:
        with ExitStack() as stack:
            for name, server in servers.items():  # one after the other: each looks at how much memory is free
                say(f"starting a server: {name}")
                with _named(name):
                    stack.enter_context(server)
            measured = interleaved(servers, workload, rounds, say)
    except ServingError as error:
        raise ServingError(f"{error}; what the servers said is in {named(logs)}") from error
    except BaseException:
        shutil.rmtree(logs)
        raise
    shutil.rmtree(logs)
    return ServingBenchmark(
        model=model,
        vllm=_release(),
        device=_device(),
        arguments=tuple(arguments),
        workload=workload,
        rows=tuple(ServedRow(name, tuple(measured[name])) for name in servers),
    )


def interleaved(
    servers: Mapping[str, Server], workload: Workload, rounds: int, say: Callable[[str], None]
) -> dict[str, list[Round]]:
    """Ask all servers once per round, every other round in the other order, after a round that warms up.

    Whoever interrupts it gets the rounds that are complete.

    Args:
        servers: by the names of their rows.
        workload: what is asked.
        rounds: how many are kept.
        say: told what is being done.

    Raises:
        ServingError: a request failed; names the row.
        KeyboardInterrupt: no round is complete.
    """
    names, complete = [*servers], list[dict[str, Round]]()
    with _until_interrupted(complete, say):
        for turn in range(rounds + 1):
            conversations, found = workload.messages(turn), dict[str, Round]()
            for name in names if turn % 2 else reversed(names):
                say(f"round {turn} of {rounds}: {name}" if turn else f"warming up: {name}")
                with _named(name):
                    found[name] = asked(servers[name].url, SERVED, conversations, workload)
            complete += [found] if turn else []
    return {name: [found[name] for found in complete] for name in names}


@contextmanager
def _until_interrupted(complete: Sequence[object], say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not complete:
            raise
        say(f"interrupted; what follows is of {len(complete)} complete rounds")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors say of which row they are."""
    try:
        yield
    except ServingError as error:
        raise ServingError(f"{name}: {error}") from error


def _release() -> str:
    import vllm

    return str(vllm.__version__)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
