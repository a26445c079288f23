"""Modules whose work is to be recorded: what speaks against it, and what would make a recording stale."""

from collections.abc import Hashable
from typing import Any

from torch import nn

from vflowopt_hf.hooks.compiling import is_compiled

_OURS = ("vflowopt_hf.", "transformers.")
"""Where hooks come from that change nothing from one forward to the next."""


class Recorded:
    """A module whose work is recorded, and what is known of it.

    Args:
        root: the module.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._known: tuple[Hashable, str | None] = (None, None)

    def state(self) -> tuple[Hashable, str | None]:
        """What recordings depend on besides arguments, and what speaks against making any."""
        state = hash(tuple(_states(self.root)))
        if state != self._known[0]:
            self._known = (state, _reason_against(self.root))
        return self._known


def _reason_against(root: nn.Module) -> str | None:
    """Why the work of a module cannot be recorded whatever its arguments are; ``None`` if nothing speaks against it."""
    for module in root.modules():
        if hasattr(module, "_hf_hook"):
            return "accelerate has put hooks on its modules"
        if hasattr(module, "_active_adapter"):
            return "it holds adapters that can be switched; merge them into the weights"
        if module.training and (module is root or isinstance(module, nn.Dropout)):
            return "it is in training mode; call model.eval()"
        if is_compiled(vars(module).get("forward")) or vars(module).get("_compiled_call_impl") is not None:
            return "parts of it are compiled"
        if any(not _is_ours(hook) for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())):
            return f"somebody has put a hook on its {type(module).__name__}"
    parameters = list(root.parameters())
    if not all(parameter.is_floating_point() for parameter in parameters):
        return "its weights are quantised"
    if len({parameter.device for parameter in parameters}) > 1:
        return "its weights are on several devices"
    return None


def _is_ours(hook: Any) -> bool:
    return bool((getattr(hook, "__module__", None) or type(hook).__module__).startswith(_OURS))


def _states(root: nn.Module) -> list[Any]:
    """Modules, hooks, where the weights are, and the attention in use."""
    found: list[Any] = [getattr(getattr(root, "config", None), "_attn_implementation", None)]
    left: list[nn.Module | None] = [root]
    while left:  # of several hundred modules before every prefill: plain entries, and nothing for what is empty
        module = left.pop()
        if module is None:
            continue
        own = module.__dict__
        found += (id(own), len(own), id(own.get("forward")), own["training"])
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            for hook in own[name].values():
                if not _is_ours(hook):  # ours come and go
                    found.append((name, id(hook)))
        for name in ("_parameters", "_buffers"):
            for tensor in own[name].values():
                if tensor is not None:
                    found.append(tensor.data_ptr())
        left += own["_modules"].values()
    return found
