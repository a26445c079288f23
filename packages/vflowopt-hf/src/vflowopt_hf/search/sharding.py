"""Evaluations of one search spread over the processes of a ``torchrun`` (or ``accelerate``) launch.

Each process holds the model and every ``size``-th sample. Process 0 searches as if it were alone; for each strategy it
asks all processes for the similarities of their samples and takes the mean in the order of the samples. Scores,
history and journal are therefore those of a serial search, and neither proposals nor timings need to agree anywhere.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from vflowopt import Strategy, TokenLayout
from vflowopt.adapter import Evaluation, Evaluator
from vflowopt.errors import InputError, ProcessError
from vflowopt.search.processes import Alone, Processes
from vflowopt_hf.search.evaluator import HiddenStateEvaluator, Outcomes, fingerprint
from vflowopt_hf.search.process_exchange import Exchange, held_interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)
"""How long processes wait for each other: longer than one evaluation, or than encoding all samples, may take."""


class ProcessGroup(Exchange):
    """Processes that share the samples of a search (:class:`vflowopt.search.processes.Processes`)."""

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """See :meth:`vflowopt.search.processes.Processes.own`."""
        if len(items) < self.size:
            raise InputError(f"{len(items)} samples cannot be spread over {self.size} processes; launch fewer")
        return items[self.rank :: self.size]

    def evaluator(self, build: Callable[[], HiddenStateEvaluator]) -> "ShardedEvaluator":
        """See :meth:`vflowopt.search.processes.Processes.evaluator`."""
        return ShardedEvaluator(self, build)

    def lead(self, evaluator: Evaluator, work: Callable[[], Result]) -> Result | None:
        """See :meth:`vflowopt.search.processes.Processes.lead`."""
        assert isinstance(evaluator, ShardedEvaluator)
        if self.rank:
            evaluator.serve()
            return None
        try:
            return work()
        finally:
            with suppress(ProcessError), held_interrupts():  # a group that is broken already, `work` reports
                self.broadcast(None)


@contextmanager
def joined(timeout: timedelta = TIMEOUT) -> Iterator[Processes]:
    """The processes that ``torchrun`` launched, or of an initialised ``torch.distributed``; else this one alone.

    Where nobody has initialised ``torch.distributed`` yet, each process also chooses the CUDA device of its local rank.

    Args:
        timeout: how long processes wait for each other.
    """
    begun = not dist.is_initialized()
    if begun and not dist.is_torchelastic_launched():
        yield Alone()
        return
    if begun:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group("gloo", timeout=timeout)
    # Results are small and on the host, whatever a caller's own group is for.
    group = dist.new_group(backend="gloo", timeout=timeout)
    try:
        size = dist.get_world_size()
        yield ProcessGroup(dist.get_rank(), size, group) if size > 1 else Alone()
    finally:
        dist.destroy_process_group(None if begun else group)


@dataclass(frozen=True)
class Request:
    """What process 0 asks all for.

    Attributes:
        strategy: what to evaluate.
        samples: indices of some of the samples, rising; ``None``: all.
    """

    strategy: Strategy
    samples: tuple[int, ...] | None = None

    def own(self, rank: int, size: int, count: int) -> list[int]:
        """Which of the ``count`` samples of one of ``size`` processes are meant, by their indices there."""
        whole = range(rank, rank + size * count, size)
        if self.samples is None:
            return list(range(count))
        return [(index - rank) // size for index in self.samples if index in whole]


@dataclass(frozen=True)
class Share:
    """What one process found out about its samples."""

    outcomes: Outcomes | None = None
    failure: str = ""
    interrupted: bool = False


class ShardedEvaluator:
    """An evaluator over the samples of all processes; every process builds it, process 0 evaluates.

    Args:
        processes: the processes.
        build: makes the evaluator over the samples ``processes.own(samples)``.

    Raises:
        ProcessError: another process failed to build its evaluator.
        InputError: the processes do not hold one model, or not every ``size``-th sample.
    """

    def __init__(self, processes: ProcessGroup, build: Callable[[], HiddenStateEvaluator]) -> None:
        self._processes = processes
        with self._reported():
            self._local = build()
        local = self._local
        about: list[tuple[str, Sequence[str], Sequence[Sequence[TokenLayout]], Sequence[int]]]
        about = processes.exchange((local.identity, local.digests, local.units, local.lengths))
        identities, digests, units, lengths = zip(*about, strict=True)
        if len(set(identities)) > 1:
            raise InputError("the processes hold different models or objectives; launch all of them alike")
        self.num_layers = local.num_layers
        self.units: Sequence[Sequence[TokenLayout]] = interleave(units)
        self.lengths: Sequence[int] = interleave(lengths)
        self.cache = local.cache
        if local.is_centred:
            device = local.targets[0].device
            targets = interleave(processes.exchange([target.cpu() for target in local.targets]))
            local.centre_on([target.to(device) for target in targets])
        # Which samples share a batch, and with it the last bits of a score, depends on who has which.
        batched = f" processes={processes.size}" if local.batch_tokens else ""
        self.fingerprint = fingerprint(identities[0] + batched, interleave(digests))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Tell the others whether the block failed; if one of them says so, fail as well."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        self._require_all(self._processes.exchange(_describe(failure)), failure)

    def _require_all(self, failures: Sequence[str], own: Exception | None) -> None:
        if own is not None:
            raise own
        for rank, failure in enumerate(failures):
            if failure:
                raise ProcessError(f"process {rank} of {len(failures)} failed: {failure}")

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """See :meth:`HiddenStateEvaluator.evaluate`; bit for bit what one process with all samples says.

        Raises:
            ProcessError: another process failed.
        """
        return self._ask(Request(strategy))

    def can_rescore(self, stages: Sequence[int]) -> bool:
        """See :meth:`HiddenStateEvaluator.can_rescore`; asks this process alone."""
        return self._local.can_rescore(stages)

    def evaluate_on(self, strategy: Strategy, samples: Sequence[int]) -> Evaluation:
        """See :meth:`HiddenStateEvaluator.evaluate_on`, and :meth:`evaluate`.

        Raises:
            ProcessError: another process failed.
        """
        return self._ask(Request(strategy, tuple(samples)))

    def _ask(self, request: Request) -> Evaluation:
        if self._processes.rank:
            raise ProcessError("only process 0 asks for evaluations; let processes.lead(...) do the search")
        with held_interrupts() as interrupted:
            self._processes.broadcast(request)
            shares, error = self._together(request, interrupted)
        if interrupted() or any(share.interrupted for share in shares):
            raise KeyboardInterrupt
        self._require_all([share.failure for share in shares], error)
        size, outcomes = self._processes.size, [share.outcomes for share in shares if share.outcomes is not None]
        times = [own.decoder_seconds for own in outcomes if own.decoder_seconds is not None]
        found: dict[int, tuple[float, float]] = {}
        for rank, own in enumerate(outcomes):
            indices = request.own(rank, size, len(range(rank, len(self.units), size)))
            pairs = zip(own.similarities, own.retentions, strict=True)
            found |= {rank + size * index: pair for index, pair in zip(indices, pairs, strict=True)}
        similarities, retentions = zip(*(found[index] for index in sorted(found)), strict=True)
        return Outcomes(
            similarities, retentions, decoder_seconds=max(times) if len(times) == len(outcomes) else None
        ).evaluation()

    def serve(self) -> None:
        """Evaluate what process 0 asks for until it is done.

        Raises:
            ProcessError: contact was lost.
        """
        with held_interrupts() as interrupted:
            while (request := self._processes.broadcast(None)) is not None:
                self._together(request, interrupted)

    def _together(self, request: Request, interrupted: Callable[[], bool]) -> tuple[list[Share], Exception | None]:
        """Evaluate the own samples and exchange results: whatever happens here, no process waits in vain."""

        def between() -> None:
            if interrupted():
                raise KeyboardInterrupt

        failure: Exception | None = None
        try:
            own = request.own(self._processes.rank, self._processes.size, len(self._local.units))
            share = Share(self._local.outcomes(request.strategy, own, between))
        except KeyboardInterrupt:
            share = Share(interrupted=True)
        except Exception as error:
            failure, share = error, Share(failure=_describe(error))
        return self._processes.exchange(share), failure


def interleave(shares: Sequence[Sequence[Item]]) -> list[Item]:
    """What processes have of a list of which each took every ``len(shares)``-th item, in the list's order.

    Raises:
        InputError: the lengths do not fit.
    """
    size, total = len(shares), sum(map(len, shares))
    if [len(share) for share in shares] != [len(range(rank, total, size)) for rank in range(size)]:
        counts = ", ".join(str(len(share)) for share in shares)
        raise InputError(f"the processes hold {counts} samples; give each processes.own(samples)")
    return [shares[index % size][index // size] for index in range(total)]


def _describe(error: Exception | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
