"""A bias of keys for attention functions whose masks hold no numbers, carried through their dot products.

With a constant column beside the query and the bias beside the key,

    q' = (q, 1, 1, 0, ...),    k' = (k, b / s, rest, 0, ...):    s q' k' = s q k + b

for the factor s of the scores. The second column is what the dtype's rounding of the first has left over, so that half
precision adds the bias to 16 bits or more. No mask is made, whatever the length of the prompt.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.conversion import pruned_layer
from vflowopt_hf.decoder.layer_kinds import has_keys
from vflowopt_hf.decoder.masks import holds_bias

COLUMNS = 8
"""How many are added: kernels take multiples of 8."""

LARGEST = 256
"""Size of a head that flash attention can do with."""


def carrying_layers(first: int | None, config: Any, depth: int) -> tuple[int, ...]:
    """Decoder layers whose attention functions are to carry a bias of keys, as their masks cannot hold it.

    Args:
        first: the first layer in which keys may have one; ``None`` if there is none.
        config: of the text decoder.
        depth: how many layers it has; those without keys carry nothing.
    """
    if first is None or holds_bias(str(config._attn_implementation)):
        return ()
    return tuple(layer for layer in range(first, depth) if has_keys(config, layer))


def require_carried(cache: Any, carriers: Collection[int], depth: int, implementation: str) -> None:
    """Check, before the first layer runs, that a decoder can go on with the bias that keys in a cache have.

    Raises:
        UnsupportedOperationError: nothing carries it.
    """
    if holds_bias(implementation):
        return
    for index in set(range(depth)).difference(carriers):
        layer = pruned_layer(cache, index)
        if layer is not None and layer.known is not None and layer.known.bias is not None:
            raise UnsupportedOperationError(
                f"this KV cache holds tokens that get attention by their mass, with which attention {implementation!r} "
                f"can go on only where the strategy has a mass: prune by the one that filled the cache, or load the "
                f"model with attn_implementation='sdpa'"
            )


def require_carriable(config: Any, implementation: str) -> None:
    """Check that an attention implementation can carry a bias of keys.

    Args:
        config: of the text decoder.
        implementation: its attention implementation; one whose masks hold no numbers.

    Raises:
        UnsupportedOperationError: it cannot.
    """
    layers = (config.per_layer_config[layer] for layer in range(config.num_hidden_layers))
    sizes = (getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads for own in layers)
    size = max(sizes)
    if "flash" in implementation and size + COLUMNS > LARGEST:
        why = f"heads of {size} leave no room for it in {LARGEST}"
    elif getattr(config, "attn_logit_softcapping", None) is not None:
        why = "the decoder caps its logits after they are added"
    else:
        return
    raise UnsupportedOperationError(
        f"attention {implementation!r} cannot give retained tokens attention by their mass: {why}; load the model with "
        f"attn_implementation='sdpa', or use a strategy without mass"
    )


def attend_with_bias(
    attend: Callable[..., Any],
    bias: Tensor,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call an attention function of transformers so that a bias is added to its logits.

    Args:
        attend: the function.
        bias: float32 [batch, slots].
        module: the attention module.
        query: [batch, heads, rows, size].
        key: [batch, key heads, slots, size].
        value: likewise.
        args: more arguments of the function.
        kwargs: likewise.

    Returns:
        What the function returns.
    """
    size = query.shape[-1]
    given = kwargs.get("scaling")
    scaling = size**-0.5 if given is None else given
    wanted = bias.to(key.device) / scaling
    first = wanted.to(key.dtype)
    rest = (wanted - first.float()).to(key.dtype)
    columns = torch.stack([first, rest], dim=-1)[:, None].expand(-1, key.shape[1], -1, -1)
    ones = query.new_ones(*query.shape[:3], columns.shape[-1])
    result, *others = attend(
        module,
        pad(torch.cat([query, ones], dim=-1), (0, COLUMNS - columns.shape[-1])),
        pad(torch.cat([key, columns], dim=-1), (0, COLUMNS - columns.shape[-1])),
        pad(value, (0, COLUMNS)),  # kernels take heads of one size only
        *args,
        **{**kwargs, "scaling": scaling},
    )
    return (result[..., : value.shape[-1]], *others)
