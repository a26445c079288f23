"""A compiled model runs its prefills eagerly while it is being pruned; decoding steps run as they were compiled."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.hooks.installing import replaced

_COMPILED = ("forward", "_compiled_call_impl")
"""Where ``model.forward = torch.compile(model.forward)``, ``torch.compile(model)`` and ``model.compile()`` put it."""

_ROWS = ("input_ids", "inputs_embeds", "hidden_states")
"""Arguments that have a row per token: of a model, of its decoder, of a layer."""


@contextmanager
def eagerly(
    model: nn.Module,
    observed: Iterable[nn.Module],
    steps: Callable[[nn.Module], bool],
    hooked: Iterable[nn.Module] = (),
) -> Iterator[None]:
    """Inside the block, modules that were compiled do not run so where that would pass over hooks.

    What is pruned follows from what is computed on the way, which no graph can hold; and a graph that was compiled
    before the block does not notice hooks that were added since. What holds no hooks stays compiled: also the forward
    of a module that has some itself, as they are called around it.

    Args:
        model: in which to look for modules that were compiled.
        observed: modules whose forward is looked into.
        steps: whether a module may run as it was compiled for a single token, as it is a decoder or holds one.
        hooked: modules with hooks before or after their forward.
    """
    inside, around = set(observed), set(hooked)
    with ExitStack() as stack:
        for module in model.modules():
            for name in _COMPILED:
                compiled: Any = vars(module).get(name)
                own = {module} if name == "forward" else set()
                if is_compiled(compiled) and not (inside | (around - own)).isdisjoint(module.modules()):
                    original = as_written(compiled)
                    call = _steps_only(compiled, original) if steps(module) else original
                    stack.enter_context(replaced(module, name, call))
        yield


def unwrapped(module: Any) -> Any:
    """The module inside what ``torch.compile(module)`` returned, or the module itself."""
    return getattr(module, "_orig_mod", module)


def is_compiled(function: Any) -> bool:
    """Whether a function is what ``torch.compile`` returned."""
    return hasattr(function, "_torchdynamo_orig_callable")


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """What ``torch.compile`` was given, if the function is what it returned."""
    written: Callable[..., Any] = getattr(function, "_torchdynamo_orig_callable", function)
    return written


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


def _steps_only(compiled: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)  # generate() reads the signature
    def call(*args: Any, **kwargs: Any) -> Any:
        found = (kwargs[name] for name in _ROWS if kwargs.get(name) is not None)
        return (compiled if is_step(args[0] if args else next(found, None)) else original)(*args, **kwargs)

    return call
