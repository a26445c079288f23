"""Where samples are kept during a search: on the model's device, then in RAM, then on disk."""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from vflowopt.errors import InputError
from vflowopt_hf.search.sample import Sample


@dataclass(frozen=True)
class MemoryLimits:
    """How much memory kept samples may take; scores do not depend on it.

    Attributes:
        device: bytes on the model's device if that is not the CPU; by default half of what is free when the first
            sample is kept.
        host: bytes of RAM; by default half of the machine's, divided by the processes that torchrun started on it. What
            does not fit there either goes to a temporary directory (``TMPDIR`` says where, as for all programs).
    """

    device: int | None = None
    host: int | None = None

    def __post_init__(self) -> None:
        for name in ("device", "host"):
            limit = getattr(self, name)
            if limit is not None and (not isinstance(limit, int) or limit < 0):
                raise InputError(f"the {name} memory limit must be a number of bytes of at least 0, got {limit!r}")

    def on_device(self, device: torch.device) -> int:
        """The limit for a device."""
        if device.type == "cpu":
            return self.on_host()
        if self.device is not None:
            return self.device
        return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else self.on_host()

    def on_host(self) -> int:
        """The limit for RAM."""
        if self.host is not None:
            return self.host
        return _ram() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _ram(control_group: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of the machine, or of the container if that has a limit; without bound where the system does not tell."""
    limits = [sys.maxsize]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):
        limits.append(int(control_group.read_text()))
    return min(limits)


class Parked:
    """A sample whose tensors are elsewhere.

    Args:
        sample: the sample.
        path: file to write the tensors to; ``None`` for RAM.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, sample: Sample, path: Path | None) -> None:
        tensors: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor.to("meta")

        self._outline = sample.mapped(take)
        self._devices = [tensor.device for tensor in tensors]
        self._tensors, self._path = [tensor.cpu() for tensor in tensors], path
        if path is not None:
            try:
                torch.save(self._tensors, path)
            except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
                raise InputError(
                    f"cannot keep samples in {str(path.parent)!r}: {error}; free some space there, point TMPDIR "
                    f"elsewhere or raise the memory limit"
                ) from error
            self._tensors = []

    def fetch(self) -> list[Tensor]:
        """The tensors in RAM."""
        if self._path is None:
            return self._tensors
        found: list[Tensor] = torch.load(self._path, map_location="cpu", weights_only=True)
        return found

    def restore(self, fetched: Sequence[Tensor]) -> Sample:
        """The sample as it was, its tensors where they were."""
        places = iter(zip(fetched, self._devices, strict=True))

        def place(_: Tensor) -> Tensor:
            tensor, device = next(places)
            return tensor.to(device)

        return self._outline.mapped(place)


class SampleStore(Sequence[Sample]):
    """Samples within memory limits: the first ones on the model's device, the next in RAM, the rest on disk.

    The directory on disk is removed when the store is gone, at the latest at the interpreter's exit.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self._limits = limits
        self._items: list[Sample | Parked] = []
        self._left: dict[str, int] = {}
        self._directory: Path | None = None

    def append(self, sample: Sample) -> None:
        """Keep another sample.

        Raises:
            InputError: there is no room on disk.
        """
        size, device = sample.nbytes, sample.call["inputs_embeds"].device
        if not self._left:
            self._left = {"device": self._limits.on_device(device), "host": self._limits.on_host()}
        if self._fits("device", size):
            self._items.append(sample)
        elif device.type != "cpu" and self._fits("host", size):
            self._items.append(Parked(sample, None))
        else:
            self._items.append(Parked(sample, self._folder() / f"{len(self._items)}.pt"))

    def _fits(self, tier: str, size: int) -> bool:
        fits = size <= self._left[tier]
        # What has overflowed once stays closed: the order of samples alone decides where each one is.
        self._left[tier] = self._left[tier] - size if fits else 0
        return fits

    def _folder(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="vflowopt-samples-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return list(self.in_turn(range(*index.indices(len(self)))))
        item = self._items[index]
        return item if isinstance(item, Sample) else item.restore(item.fetch())

    def __iter__(self) -> Iterator[Sample]:
        return self.in_turn(range(len(self)))

    def in_turn(self, order: Iterable[int]) -> Iterator[Sample]:
        """Some samples, one after the other; the next one is read from disk while this one is in use."""
        items = [self._items[index] for index in order]
        if self._directory is None:
            yield from (item if isinstance(item, Sample) else item.restore(item.fetch()) for item in items)
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            coming: Future[list[Tensor]] | None = None
            for item, after in zip(items, [*items[1:], None], strict=True):
                fetched = (coming or reader.submit(_fetch, item)).result()
                coming = reader.submit(_fetch, after) if after else None
                yield item if isinstance(item, Sample) else item.restore(fetched)


def _fetch(item: Sample | Parked) -> list[Tensor]:
    return item.fetch() if isinstance(item, Parked) else []
