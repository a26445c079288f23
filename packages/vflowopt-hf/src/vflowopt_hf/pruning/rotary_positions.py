"""Positions of a prompt's tokens in the rows and columns of pictures: found on the host, without a wait for the tower.

Upstream computes them behind the tower from token ids, mask and sizes, which it reads back from the device.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt_hf.graphs.trees import changed, tensors_of
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.plans.placing import on_device

METHOD = "get_rope_index"
"""Upstream's, of backbones whose positions have several axes."""


@contextmanager
def positions_on_host(backbone: nn.Module, known: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside the block, upstream's own method computes on the host; its results are copied to the device.

    Args:
        backbone: has the method, or is left as it is.
        known: what a tensor of the forward that runs holds, on the host; ``None`` if nobody has it there.
    """
    original: Callable[..., Any] | None = getattr(backbone, METHOD, None)
    if original is None:
        yield
        return
    method = original

    @functools.wraps(original)
    def positions(*args: Any, **kwargs: Any) -> Any:
        given = [] if torch.compiler.is_compiling() else tensors_of((args, kwargs))
        copies = [known(tensor) for tensor in given]
        if not given or any(copy is None for copy in copies):
            return method(*args, **kwargs)
        left = iter(copies)
        args, kwargs = changed((args, kwargs), lambda _: next(left))  # type: ignore[arg-type, return-value]
        return changed(method(*args, **kwargs), lambda made: on_device(made.numpy(), given[0].device))

    with replaced(backbone, METHOD, positions):
        yield
