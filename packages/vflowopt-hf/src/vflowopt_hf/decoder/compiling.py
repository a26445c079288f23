"""A compiled model runs its prefills eagerly while it is being pruned; decoding steps run as they were compiled."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vflowopt.errors import UnsupportedOperationError

_COMPILED = ("forward", "_compiled_call_impl")
"""Where ``model.forward = torch.compile(model.forward)``, ``torch.compile(model)`` and ``model.compile()`` put it."""


@contextmanager
def eager_prefills(model: Any) -> Iterator[None]:
    """Inside the block, compiled entrances of a model are used for forwards of a single token only.

    What is pruned follows from what is computed on the way, which no graph can hold; and a graph that was compiled
    before the block does not notice hooks that were added since. A model without compiled entrances is not touched.
    """
    found = {name: vars(model)[name] for name in _COMPILED if vars(model).get(name) is not None}
    compiled = {name: call for name, call in found.items() if hasattr(call, "_torchdynamo_orig_callable")}
    try:
        for name, call in compiled.items():
            object.__setattr__(model, name, _steps_only(call))
        yield
    finally:
        for name, call in compiled.items():
            object.__setattr__(model, name, call)


def require_step(tokens: Any) -> None:
    """Check that a forward that is being compiled is a decoding step.

    Args:
        tokens: token ids or embeddings, [batch, queries, ...].

    Raises:
        UnsupportedOperationError: it is not, and might bring tokens to prune.
    """
    if not is_step(tokens):
        raise UnsupportedOperationError(
            "a prefill is being compiled, but prefills are pruned eagerly; hand the compiled model itself to prune(), "
            "or compile decoding steps only"
        )


def is_step(tokens: Any) -> bool:
    """Whether these are the tokens of a decoding step: one per sample."""
    return isinstance(tokens, torch.Tensor) and tokens.shape[1] == 1


def _steps_only(compiled: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(compiled)  # generate() reads the signature
    def call(*args: Any, **kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs.get("input_ids")
        if is_step(tokens):
            return compiled(*args, **kwargs)
        with torch.compiler.set_stance("force_eager"):
            return compiled(*args, **kwargs)

    return call
