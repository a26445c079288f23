"""What transformers calls things, and since when: the only place that tells its releases apart.

A KV cache is ``past_key_values`` up to 5.23 and ``cache`` from 5.24 on, in the arguments and outputs of models,
decoders and layers; the old name is translated until 5.40. Hooks see the name that the caller has written, and a module
passes arguments by names that it does not know on, and ignores them. So arguments are read by either name, and passed
by the one that the module declares.
"""

import functools
import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import transformers

from vflowopt.errors import UnsupportedModelError

CACHE_NAMES = ("cache", "past_key_values")
"""Names of the KV cache, the newest first."""

TESTED = ((5, 19), (5, 24))
"""Oldest and newest release of transformers that the tests run with."""


class UntestedUpstreamWarning(UserWarning):
    """The installed transformers is newer than any release that vflowopt was tested with."""


def installed() -> tuple[int, int]:
    """The installed release of transformers: major and minor version."""
    major, minor, *_ = transformers.__version__.split(".")
    return int(major), int(minor)


@functools.cache
def warn_if_untested() -> None:
    """Warn, once in a process, of a transformers that is newer than :data:`TESTED`."""
    if installed() > TESTED[-1]:
        newest = ".".join(map(str, TESTED[-1]))
        warnings.warn(
            f"transformers {transformers.__version__} is newer than {newest}, the newest release that vflowopt-hf was "
            f"tested with; if something fails, try transformers {newest}",
            UntestedUpstreamWarning,
            stacklevel=3,
        )


def cache_in(call: Mapping[str, Any]) -> Any:
    """The KV cache among the keyword arguments of a module; ``None`` if there is none."""
    for name in CACHE_NAMES:
        if call.get(name) is not None:
            return call[name]
    return None


def cache_from(output: Any) -> Any:
    """The KV cache that a model or its decoder returns.

    Raises:
        UnsupportedModelError: there is none by a known name.
    """
    for name in CACHE_NAMES:
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    raise UnsupportedModelError(f"{type(output).__name__} holds no KV cache; known names: {', '.join(CACHE_NAMES)}")


def with_cache(module: Any, call: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """Keyword arguments of a model or its decoder, this KV cache among them in place of any other.

    Raises:
        UnsupportedModelError: see :func:`cache_argument`.
    """
    others = {name: value for name, value in call.items() if name not in CACHE_NAMES}
    return {**others, "use_cache": True, cache_argument(module): cache}


def cache_argument(module: Any) -> str:
    """Name by which a model, decoder or decoder layer takes the KV cache.

    Raises:
        UnsupportedModelError: it declares none that is known, so hooks could not see the cache.
    """
    module = getattr(module, "_orig_mod", module)  # what torch.compile returned declares nothing
    declared = inspect.signature(module.forward).parameters
    for name in CACHE_NAMES:
        if name in declared:
            return name
    raise UnsupportedModelError(
        f"{type(module).__name__} of transformers {transformers.__version__} takes no KV cache by a known name "
        f"({', '.join(CACHE_NAMES)}); use transformers {'.'.join(map(str, TESTED[-1]))}"
    )


def require_cache_arguments(layers: Iterable[Any]) -> None:
    """Check that hooks on decoder layers will see the KV cache.

    Raises:
        UnsupportedModelError: see :func:`cache_argument`.
    """
    for layer in {type(layer): layer for layer in layers}.values():
        cache_argument(layer)


def require_sharing_modes(config: Any) -> None:
    """Check that a decoder tells which of its layers reuse the keys of earlier ones, if any do.

    Raises:
        UnsupportedModelError: it tells only how many do, as in 5.20.
    """
    shared = getattr(config, "num_kv_shared_layers", None)
    if shared and getattr(config, "kv_sharing_modes", None) is None:
        raise UnsupportedModelError(
            f"the last {shared} decoder layers reuse the keys of earlier ones, and transformers "
            f"{transformers.__version__} does not tell which; use transformers {'.'.join(map(str, TESTED[-1]))}"
        )


def feature_layer(config: Any) -> int | Sequence[int]:
    """Index of the tower's hidden states that a projector uses, or several; 5.20 has a plural for ViP-LLaVA's."""
    name = "vision_feature_layers" if hasattr(config, "vision_feature_layers") else "vision_feature_layer"
    found: int | Sequence[int] = getattr(config, name)
    return found


def continues_in_chunks() -> bool:
    """Whether ``generate`` with ``prefill_chunk_size`` skips what the cache holds: 5.20 does not, 5.23 does."""
    return installed() >= (5, 23)
