"""The recordings of a session: what is seen for the second time is recorded, and from then on replayed."""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from vflowopt.errors import VFlowOptError
from vflowopt_hf.graphs.recorder import Recorder
from vflowopt_hf.graphs.trees import changed, tensors_of
from vflowopt_hf.graphs.watch import UnrecordableError, Watch

MOST, SEEN = 16, 1024
"""Recordings kept at most, and how many keys are remembered that have none."""


class GraphsWarning(UserWarning):
    """Something runs eagerly in spite of ``graphs=True``; it computes the same."""


class Seen:
    """The last keys that were seen; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def add(self, key: Hashable) -> None:
        """Remember a key; of more than :data:`SEEN`, the first is forgotten."""
        with self._lock:
            self._keys[key] = None
            while len(self._keys) > SEEN:
                self._keys.popitem(last=False)


class Graphs:
    """Recordings by all that the host has decided with; the least recently used go first.

    All threads share them; one at a time records or replays.

    Args:
        recorder: records and replays; ``None`` where nothing does.
        most: how many are kept.
        most_bytes: how much device memory they may take, by default what the recorder says; when they take more, all
            go, or the last one, if there were no others than those of one shape.
    """

    def __init__(self, recorder: Recorder | None, most: int = MOST, most_bytes: int | None = None) -> None:
        self._recorder, self._most, self._most_bytes = recorder, most, most_bytes
        self._lock = threading.RLock()
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._seen = Seen()
        self._refused: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._graphs)

    def reason_against(self, tensors: Sequence[Tensor]) -> str | None:
        """Why a call with these tensors, one at least, cannot be recorded or replayed now; ``None`` if it can."""
        if self._recorder is None or not all(map(self._recorder.on_device, tensors)):
            return "its arguments are not on a CUDA device"
        if len({tensor.device for tensor in tensors}) > 1:
            return "its arguments are on several devices"
        if torch.is_grad_enabled():
            return "gradients are recorded; call the model in torch.no_grad() or torch.inference_mode()"
        if torch.is_autocast_enabled(tensors[0].device.type):
            return "autocast is on; load the model in the dtype to compute with"
        if _get_current_dispatch_mode() is not None:
            return "a dispatch mode looks on at every operator"
        return None

    def fall_back(self, part: str, reason: str) -> None:
        """Say, once, why a part of the model runs eagerly."""
        with self._lock:
            if (part, reason) in self._told:
                return
            self._told.add((part, reason))
        warnings.warn(f"graphs=True: the {part} runs eagerly, as {reason}", GraphsWarning, stacklevel=2)

    def is_due(self, part: str, key: Hashable) -> bool:
        """Whether to call :meth:`run` rather than run eagerly: from the second time that a key is seen."""
        with self._lock:
            if part in self._refused:
                return False
            if (part, key) in self._graphs or (part, key) in self._seen:
                return True
            self._seen.add((part, key))
            return False

    def run(
        self,
        part: str,
        key: Hashable,
        inputs: Any,
        function: Callable[[Any], Any],
        is_fixed: Callable[[Tensor], bool] = lambda _: False,
    ) -> Any:
        """What a function makes of its inputs, recorded first if it was not before.

        Args:
            part: of the model, for messages.
            key: what the host has decided with, but the numbers in the inputs.
            inputs: a tree of tensors (:mod:`vflowopt_hf.graphs.trees`).
            function: takes such a tree, leaves nothing behind but its result, and may be called more than once.
            is_fixed: tells inputs of which the key has the numbers, too; the function may wait for these.

        Returns:
            The result, which no later replay changes.

        Raises:
            UnrecordableError: it cannot be recorded; neither will others of this part be.
        """
        assert self._recorder is not None
        # Buffers are written outside inference mode too, where tensors that were made inside cannot be.
        with self._lock, torch.inference_mode(mode=False), torch.no_grad():
            graph = self._graphs.get((part, key))
            if graph is None:
                graph = self._record(part, key, inputs, function, is_fixed)
            else:
                self._graphs.move_to_end((part, key))
            self._recorder.begin()
            try:
                return graph.replayed(inputs)
            finally:
                self._recorder.end()

    def _record(
        self,
        part: str,
        key: Hashable,
        inputs: Any,
        function: Callable[[Any], Any],
        is_fixed: Callable[[Tensor], bool],
    ) -> "_Graph":
        assert self._recorder is not None
        if part in self._refused:  # by another thread, meanwhile
            raise UnrecordableError(self._refused[part])
        self._recorder.begin()
        try:
            graph = _Graph(self._recorder, inputs, function, is_fixed)
        except VFlowOptError:
            raise  # what is wrong with this call says nothing of others
        except Exception as error:
            reason = str(error) if isinstance(error, UnrecordableError) else f"recording it failed: {error}"
            raise self._refusal(part, reason.partition("\n")[0]) from error
        limit = self._recorder.limit if self._most_bytes is None else self._most_bytes
        if self._recorder.bytes > limit:
            del graph
            if len(self._graphs) < 2:  # to begin anew would be no help, again and again
                if not self._graphs:
                    self._recorder.forget()
                raise self._refusal(part, f"its recordings take more than {limit >> 20} MiB of memory")
            self.clear()
            return self._record(part, key, inputs, function, is_fixed)
        self._graphs[part, key] = graph
        while len(self._graphs) > self._most:
            self._recorder.settle()
            self._graphs.popitem(last=False)
        return graph

    def _refusal(self, part: str, reason: str) -> UnrecordableError:
        self._refused[part] = reason
        return UnrecordableError(reason)

    def clear(self) -> None:
        """Let all recordings go, after what they still run."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.settle()
                self._graphs.clear()
                self._recorder.forget()


class _Graph:
    """One recording with the tensors that it reads and writes.

    Args:
        recorder: records it.
        inputs: a tree of tensors.
        function: what is recorded.
        is_fixed: tells inputs that are the same in every replay.
    """

    def __init__(
        self,
        recorder: Recorder,
        inputs: Any,
        function: Callable[[Any], Any],
        is_fixed: Callable[[Tensor], bool],
    ) -> None:
        self._is_fixed = is_fixed
        own = changed(inputs, lambda tensor: tensor.detach().clone())
        self._inputs = self._changing(own)
        watch = Watch(recorder, self._inputs, filter(is_fixed, tensors_of(own)))

        def watched() -> Any:
            with watch.on():
                return function(own)

        self._replay, self._result = recorder.record(watched)
        self._outside = watch.outside  # they must stay where they are
        made = {id(tensor): tensor for tensor in tensors_of(self._result) if watch.has_made(tensor)}
        self._outputs = list(made.values())

    def _changing(self, inputs: Any) -> list[Tensor]:
        return [tensor for tensor in tensors_of(inputs) if not self._is_fixed(tensor)]

    def replayed(self, inputs: Any) -> Any:
        """The result for other inputs of the same shapes, in tensors of its own."""
        _copy(self._changing(inputs), self._inputs)
        self._replay()
        copies = [torch.empty_like(tensor) for tensor in self._outputs]
        _copy(self._outputs, copies)
        copied = {id(tensor): copy for tensor, copy in zip(self._outputs, copies, strict=True)}
        return changed(self._result, lambda tensor: copied.get(id(tensor), tensor))


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Copy tensors, those of one dtype in one go."""
    groups: dict[Hashable, tuple[list[Tensor], list[Tensor]]] = {}
    for source, target in zip(sources, targets, strict=True):
        # Where strides differ, one that does not fit would let all others be copied one by one.
        own = groups.setdefault((source.dtype, target.dtype, source.stride() == target.stride()), ([], []))
        own[0].append(source)
        own[1].append(target)
    for some, others in groups.values():
        torch._foreach_copy_(others, some)
