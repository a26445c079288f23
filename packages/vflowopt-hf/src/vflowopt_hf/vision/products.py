"""Attention modules of other libraries, such as timm, which call torch's scaled_dot_product_attention themselves."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.hooks.compiling import as_written
from vflowopt_hf.hooks.installing import Installed, replaced

Product = Callable[[Tensor, Tensor, Tensor, float, Callable[[], Tensor]], Tensor]
"""(query, key, value [views, heads, positions, head_dim], factor of the scores, what torch makes of them) -> result."""


@contextmanager
def products_through(module: nn.Module, product: Product) -> Iterator[None]:
    """Inside the block the attention product of a module's forward is what a function makes of it.

    Args:
        module: an attention module; its forward calls ``torch.nn.functional.scaled_dot_product_attention``.
        product: called in its place.
    """
    with replaced(module, "forward", _SeenForward(module, as_written(module.forward), product)):
        yield


def has_seen_products(module: nn.Module) -> bool:
    """Whether a module's product goes through a function."""
    return isinstance(vars(module).get("forward"), _SeenForward)


class _SeenForward(Installed):
    """The forward of a module, what it multiplies seen.

    Raises:
        UnsupportedModelError: it does not call the function, or with a mask, which nobody here reads.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Any], product: Product) -> None:
        self._kind, self._forward, self._product = type(module).__name__, forward, product

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Products(self._kind, self._product) as products:
            output = self._forward(*args, **kwargs)
        if not products.count:
            raise UnsupportedModelError(
                f"{self._kind} neither selects its attention through config._attn_implementation nor calls torch's "
                f"scaled_dot_product_attention, so its attention cannot be observed; for a timm tower let it fuse "
                f"attention (timm.layers.set_fused_attn)"
            )
        return output


class _Products(TorchFunctionMode):
    """Lets a function take the place of torch's attention product."""

    def __init__(self, kind: str, product: Product) -> None:
        super().__init__()
        self.count = 0
        self._kind, self._product = kind, product

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See ``torch.overrides``."""
        call = functools.partial(function, *args, **(kwargs or {}))
        if function is not scaled_dot_product_attention:
            return call()
        self.count += 1
        query, key, value, scale = _read(self._kind, *args, **(kwargs or {}))
        return self._product(query, key, value, scale, call)


def _read(
    kind: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor, float]:
    """What scaled_dot_product_attention was called with."""
    if attn_mask is not None or is_causal or query.ndim != 4:
        raise UnsupportedModelError(
            f"{kind} attends with a mask or to other than [views, heads, positions, size], which cannot be observed"
        )
    return query, key, value, query.shape[-1] ** -0.5 if scale is None else scale
