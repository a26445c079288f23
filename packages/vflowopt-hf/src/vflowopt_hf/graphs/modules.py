"""Modules whose work is to be recorded: what speaks against it, and what would make a recording stale."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from operator import is_not, itemgetter, methodcaller
from typing import Any

from torch import Tensor, nn

from vflowopt_hf.hooks.compiling import is_compiled

_OURS = ("vflowopt_hf.", "transformers.")
"""Where hooks come from that change nothing from one forward to the next."""

_READ = itemgetter("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "training")
_FORWARD, _IS_GIVEN = methodcaller("get", "forward"), partial(is_not, None)


class Recorded:
    """A module whose work is recorded, and what is known of it.

    Args:
        root: the module.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._listed: tuple[Hashable, Sequence[dict[str, Any]]] = (None, [vars(root)])
        self._known: tuple[Hashable, str | None] = (None, None)

    def state(self) -> tuple[Hashable, str | None]:
        """What recordings depend on besides arguments, and what speaks against making any."""
        listing, owns = self._listed
        modules, others = _look(owns)
        if modules != listing:
            owns = [vars(module) for module in self.root.modules()]
            modules, others = _look(owns)
            self._listed = modules, owns
        state = hash((modules, others, getattr(getattr(self.root, "config", None), "_attn_implementation", None)))
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


def _look(owns: Sequence[dict[str, Any]]) -> tuple[Hashable, Hashable]:
    """Of modules, given by their attributes, which modules are in them, and what else recordings depend on.

    The second is how many attributes they have, their forwards, modes and hooks, and where their weights are. There are
    hundreds of modules, and the device has nothing to do meanwhile: so nothing here is a call of Python per module.
    """
    children, parameters, buffers, hooks, pre_hooks, training = zip(*map(_READ, owns), strict=True)
    tensors, called = _values(chain(parameters, buffers)), _values(chain(hooks, pre_hooks))
    return (tuple(map(len, children)), tuple(map(id, chain(owns, _values(children))))), (
        tuple(map(len, owns)),
        tuple(map(id, map(_FORWARD, owns))),
        training,
        tuple([id(hook) for hook in called if not _is_ours(hook)]),  # ours come and go
        tuple(map(Tensor.data_ptr, filter(_IS_GIVEN, tensors))),
    )


def _values(entries: Iterable[dict[str, Any]]) -> Iterator[Any]:
    return chain.from_iterable(map(dict.values, filter(None, entries)))
