"""The model is left as it was found, whatever happens inside the block."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vflowopt.testing import require
from vflowopt_hf.testing.subject import Subject


class _OnPurposeError(Exception):
    pass


def clean_exit(subject: Subject) -> None:
    """Hooks, configs, attributes and attention functions are as before: after a run, and after errors inside."""
    model, batch = subject.model, subject.batch(subject.image())
    strategy = subject.strategy(batch)
    layers: list[nn.Module] = list(subject.family.decoder(model).layers)  # type: ignore[arg-type]
    with torch.no_grad():
        expected = model(**batch.inputs).logits  # upstream notes some things on itself at first use
        before = _state(model)
        with subject.prune(strategy):
            model(**batch.inputs)
        _require_same(before, _state(model), "an ordinary block")
        places = {"a decoder layer": layers[len(layers) // 2], "vision": subject.family.vision_attention(model)}
        for place, module in places.items():
            handle = module.register_forward_pre_hook(_fail)
            try:
                with pytest.raises(_OnPurposeError), subject.prune(strategy):
                    model(**batch.inputs)
            finally:
                handle.remove()
            _require_same(before, _state(model), f"an exception inside {place}")
        require(torch.equal(model(**batch.inputs).logits, expected), "the model computes something else than before")


def _fail(*_: object) -> None:
    raise _OnPurposeError


def _state(model: Any) -> dict[str, object]:
    """All that a session may touch, by name."""
    state: dict[str, object] = {"attention functions": sorted(ALL_ATTENTION_FUNCTIONS)}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        state[f"hooks of {name}"] = (list(module._forward_pre_hooks), list(module._forward_hooks))
        state[f"attributes of {name}"] = sorted(vars(module))
        state[f"config of {name}"] = (id(config), getattr(config, "_attn_implementation", None))
    return state


def _require_same(before: dict[str, object], after: dict[str, object], what: str) -> None:
    changed = [name for name in before if after.get(name) != before[name]]
    require(not changed, f"{what} leaves traces: {', '.join(changed[:5])}")
