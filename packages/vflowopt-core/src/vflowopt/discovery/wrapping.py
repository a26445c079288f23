"""Models inside what others put around them: PEFT's adapters, ``torch.compile``, data parallelism."""

from typing import Any

from vflowopt.errors import UnsupportedOperationError


def shells(model: Any) -> list[Any]:
    """A model as it was given and all that it wraps, outermost first; the last is the bare model.

    Raises:
        UnsupportedOperationError: a wrapper cannot be pruned through: it copies the model at every forward, or puts
            learned tokens before the prompt.
    """
    found = [model]
    while (inner := _inner(found[-1])) is not None:
        found.append(inner)
    return found


def unwrap(model: Any) -> Any:
    """The bare model.

    Raises:
        UnsupportedOperationError: see :func:`shells`.
    """
    return shells(model)[-1]


def _inner(model: Any) -> Any:
    if len(getattr(model, "device_ids", None) or ()) > 1:
        raise UnsupportedOperationError(
            f"{type(model).__name__} copies the model to {len(model.device_ids)} devices at every forward, where it "
            f"cannot be pruned; use one process per device, or from_pretrained(..., device_map='auto')"
        )
    modules = getattr(model, "_modules", {})
    for name in ("_orig_mod", "module"):  # torch.compile; DataParallel and DistributedDataParallel
        if name in modules:
            return modules[name]
    if not hasattr(type(model), "get_base_model"):  # peft
        return None
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise UnsupportedOperationError(
            f"{model.active_peft_config.peft_type.value} puts learned tokens before the prompt, which pruning cannot "
            f"place; adapters that change weights, such as LoRA, can be pruned"
        )
    return model.get_base_model()
