"""What ``generate`` cannot do while its model is pruned, said before anything runs."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from transformers.cache_utils import Cache

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.hooks.compiling import unwrapped
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.upstream import cache_in, continues_in_chunks

_PICTURES = ("pixel_values", "mm_encoder_outputs")


@contextmanager
def checked_generation(model: Any) -> Iterator[None]:
    """Inside the block, a model refuses generation that would go wrong, or in which nothing could be pruned.

    Args:
        model: a model of transformers; methods that it lacks are not checked.
    """
    model = unwrapped(model)
    checks: dict[str, Callable[[Mapping[str, Any]], None]] = {
        "generate": partial(_check_generate, model),
        "generate_batch": _refuse_continuous_batching,
        "init_continuous_batching": _refuse_continuous_batching,
    }
    with ExitStack() as stack:
        for name, check in checks.items():
            if hasattr(model, name):
                stack.enter_context(replaced(model, name, _checked(getattr(model, name), check)))
        yield


def _checked(method: Callable[..., Any], check: Callable[[Mapping[str, Any]], None]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind_partial(*args, **kwargs).arguments
        check({**given, **given.get("kwargs", {})})
        return method(*args, **kwargs)

    return call


def _check_generate(model: Any, given: Mapping[str, Any]) -> None:
    """Refuse what ``generate`` would do wrong.

    Raises:
        UnsupportedOperationError: continuous batching, a chunked prefill of visual tokens, early exit, or assisted
            decoding on a cache that holds tokens or is quantised.
    """

    def option(name: str) -> Any:
        configs = (given.get("generation_config"), getattr(model, "generation_config", None))
        values = (given.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    cache = cache_in(given)
    held = int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
    if option("cache_implementation") == "paged":
        _refuse_continuous_batching()
    if option("prefill_chunk_size") is not None:
        _check_chunks(option("prefill_chunk_size"), given, held)
    if option("assistant_early_exit") is not None:
        raise UnsupportedOperationError(
            "assistant_early_exit drafts with the first layers of this model, as if it had no others to prune before; "
            "use assistant_model or prompt_lookup_num_tokens"
        )
    if given.get("assistant_model") is not None or option("prompt_lookup_num_tokens") is not None:
        _check_drafts(option("cache_implementation"), held)


def _check_chunks(size: int, given: Mapping[str, Any], held: int) -> None:
    if any(given[name] is not None for name in given if name.startswith(_PICTURES)):
        raise UnsupportedOperationError(
            f"prefill_chunk_size={size} would prune an image in pieces, but its tokens are ranked against each other; "
            f"leave it out while pruning (layers behind the first stage have shorter prompts anyhow)"
        )
    if held and not continues_in_chunks():
        raise UnsupportedOperationError(
            f"this transformers runs a prompt in chunks from its beginning, on top of the {held} tokens that the cache "
            f"holds already; leave prefill_chunk_size out, or install transformers 5.23 or newer"
        )


def _check_drafts(implementation: str | None, held: int) -> None:
    if implementation == "quantized":
        raise UnsupportedOperationError(
            "rejected drafts cannot be removed from a quantised KV cache; use cache_implementation='dynamic'"
        )
    if held:
        raise UnsupportedOperationError(
            f"transformers begins assisted decoding with the whole prompt, on top of the {held} tokens that the cache "
            f"holds already; pass no cache, or decode without an assistant"
        )


def _refuse_continuous_batching(*_: Any) -> None:
    raise UnsupportedOperationError(
        "continuous batching takes token ids and no pixels, so there is nothing to prune; call generate() with a batch "
        "instead, or leave the prune block"
    )
