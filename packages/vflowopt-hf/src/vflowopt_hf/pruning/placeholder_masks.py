"""Where a prompt's placeholders are: answered from the token ids that the host has, so that nobody waits for the tower.

Upstream finds them on the device, and then reads back how many there are, to compare them with the features. That waits
for the vision tower, with nothing launched behind it.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt_hf.graphs.trees import changed
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.plans.placing import on_device

_METHOD = "get_placeholder_mask"


@contextmanager
def placeholders_on_host(backbone: nn.Module, known: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside the block, upstream's own method counts and compares on the host; its masks are copied to the device.

    Args:
        backbone: has the method, or is left as it is.
        known: token ids on the host, by those on the device; ``None`` if nobody has them.
    """
    original: Callable[..., Any] | None = getattr(backbone, _METHOD, None)
    if original is None:
        yield
        return
    signature, method = inspect.signature(original), original

    @functools.wraps(original)
    def masks(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        host = None if torch.compiler.is_compiling() else _on_host(given, known)
        if host is None:
            return method(*args, **kwargs)
        device = given["inputs_embeds"].device
        return changed(method(**host), lambda mask: on_device(mask.numpy(), device))

    with replaced(backbone, _METHOD, masks):
        yield


def _on_host(given: Mapping[str, Any], known: Callable[[Tensor], Tensor | None]) -> dict[str, Any] | None:
    """The same arguments on the host, one number wide where only the size matters; ``None`` if some are others."""
    ids, embeddings = given.get("input_ids"), given.get("inputs_embeds")
    host = known(ids) if isinstance(ids, Tensor) and isinstance(embeddings, Tensor) else None
    if host is None or embeddings is None:
        return None
    sized = {name: value for name, value in given.items() if name != "input_ids" and value is not None}
    if not all(_is_wide(value, embeddings.shape[-1]) for value in sized.values()):
        return None
    nothing = torch.zeros(())
    return {"input_ids": host, **{name: nothing.expand(*value.shape[:-1], 1) for name, value in sized.items()}}


def _is_wide(value: Any, width: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 and value.shape[-1] == width
