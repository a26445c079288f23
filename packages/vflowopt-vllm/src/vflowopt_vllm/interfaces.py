"""What the plugin leans on in vLLM beyond its documented interfaces, looked for before anything is registered."""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from vflowopt_vllm.errors import ServingError

TESTED = ("0.32", "0.33")
"""Releases of vLLM that were tested, the oldest first."""

_LEANED_ON: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("vllm.multimodal.processing", "PromptUpdateDetails", ()),
    ("vllm.multimodal.processing", "BaseMultiModalProcessor._get_prompt_updates", ("out_mm_kwargs",)),
    ("vllm.multimodal.processing", "BaseMultiModalProcessor._get_mm_hashes", ("inputs",)),
    ("vllm.multimodal.processing", "BaseMultiModalProcessor._maybe_apply_prompt_updates", ("mm_items", "mm_res")),
    ("vllm.model_executor.models.config", "MODELS_CONFIG_MAP", ()),
    ("vllm.model_executor.models.config", "VerifyAndUpdateConfig.verify_and_update_config", ("vllm_config",)),
    ("vllm.model_executor.models.config", "VerifyAndUpdateConfig.verify_and_update_model_config", ("model_config",)),
    (
        "vllm.model_executor.models.interfaces",
        "SupportsMultiModalPruning.recompute_mrope_positions",
        ("input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens"),
    ),
    (
        "vllm.model_executor.models.interfaces",
        "SupportsMRoPE.get_mrope_input_positions",
        ("input_tokens", "mm_features"),
    ),
)


def check_interfaces() -> None:
    """Check the installed vLLM.

    Raises:
        ServingError: it is not there, or not as this package knows it; names the tested releases.
    """
    try:
        import vllm
    except ImportError:
        raise ServingError(
            f"vLLM is not installed; install a distribution of it for your hardware, of release {_tested()}"
        ) from None
    missing = list(_missing())
    if missing:
        raise ServingError(
            f"vLLM {vllm.__version__} lacks {', '.join(missing)}, which vflowopt-vllm leans on; install vLLM "
            f"{_tested()}, with which it was tested"
        )


def newer_than_tested(release: str) -> str | None:
    """A line to log if a release of vLLM is newer than any that was tested; ``None`` if it is not."""
    if _ordered(release) <= _ordered(TESTED[-1]):
        return None
    return (
        f"vLLM {release} is newer than any release that vflowopt-vllm was tested with; if something fails, try vLLM "
        f"{TESTED[-1]}"
    )


def _ordered(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:2])


def _tested() -> str:
    return " or ".join(TESTED)


def _missing() -> Iterator[str]:
    for module, path, parameters in _LEANED_ON:
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
        except (ImportError, AttributeError):
            yield f"{module}.{path}"
            continue
        unknown = [name for name in parameters if name not in inspect.signature(found).parameters]
        if unknown:
            yield f"{module}.{path}({', '.join(unknown)})"
