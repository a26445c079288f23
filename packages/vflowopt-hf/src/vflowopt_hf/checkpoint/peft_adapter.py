"""PEFT adapters, such as LoRA, on top of the checkpoint that they were trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vflowopt.discovery.wrapping import unwrap
from vflowopt.errors import InputError, VFlowOptError
from vflowopt_hf.checkpoint.causes import cause


def with_adapter(model: Any, source: str | Path) -> Any:
    """The model with an adapter's weights beside its own; changed in place.

    Args:
        model: the base model, as the adapter's ``adapter_config.json`` names it.
        source: directory or hub id of the adapter.

    Raises:
        InputError: peft is not installed, the adapter cannot be loaded, or its weights are those of another model.
        UnsupportedOperationError: the adapter puts learned tokens before the prompt.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    except ImportError as error:
        raise InputError(f"{str(source)!r} is a PEFT adapter, and peft is not installed: pip install peft") from error
    try:
        wrapped = PeftModel.from_pretrained(model, str(source))
        bare = unwrap(wrapped)
        stored = set(load_peft_weights(str(source), device="cpu"))
        wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    except VFlowOptError:
        raise
    except Exception as error:  # whatever a damaged file sets off in upstream's code
        raise InputError(
            f"cannot load the PEFT adapter {str(source)!r}: {cause(error)}; check its adapter_config.json and the "
            f"model that it names, or download it again"
        ) from error
    missing, surplus = sorted(wanted - stored), sorted(stored - wanted - set(wrapped.state_dict()))
    if missing or surplus:
        raise InputError(
            f"the weights of the PEFT adapter {str(source)!r} are not those of the model that it names: "
            f"{len(missing)} are missing{_first(missing)}, {len(surplus)} fit nowhere{_first(surplus)}; correct "
            f"the model in its adapter_config.json"
        )
    return bare


def _first(names: Sequence[str]) -> str:
    return f" ({names[0]}, ...)" if names else ""
