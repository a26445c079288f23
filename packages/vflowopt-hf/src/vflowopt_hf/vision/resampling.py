"""Visual tokens that a resampler makes: each asks all patches of a view, and stands for none of them.

What a token is worth is what the patches are worth that it attends to: a map over patches goes to the tokens by the
resampler's own attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.vision.capture import VisionCapture, capture_attention
from vflowopt_hf.vision.vision_call import VisionCall


@contextmanager
def capture_resampler(family: Family, model: Any) -> Iterator[VisionCapture | None]:
    """Observe a model's resampler inside the block; ``None`` if it has none."""
    resampler = family.resampler(model)
    if resampler is None:
        yield None
        return
    with capture_attention(resampler) as capture:
        yield capture


def resampled(units: Sequence[Unit], calls: Sequence[VisionCall]) -> tuple[Unit, ...]:
    """The units, ``to_tokens`` of which now takes a map over patches, and not one over what the resampler made.

    Args:
        units: of one call of an encoder; their ``to_tokens`` take a map [views, asked] over the resampler's queries.
        calls: of the resampler's attention meanwhile. Keys begin with the patches of a view, in the tower's order.

    Raises:
        UnsupportedModelError: the resampler has seen other views than the units have.
    """
    asked = [(query, key, call.scaling) for call in calls for query, key in zip(call.query, call.key, strict=True)]
    views = max((unit.views.stop for unit in units), default=0)
    if len(asked) != views:
        raise UnsupportedModelError(f"the resampler saw {len(asked)} views, not the {views} of its inputs")
    return tuple(
        replace(unit, to_tokens=partial(_through, _shares(unit, asked[unit.views]), unit.to_tokens)) for unit in units
    )


def _shares(unit: Unit, asked: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """How each query shares its attention to patches out, mean over heads: float32 [views, asked, patches]."""
    shares = []
    for query, key, scaling in asked:
        places = unit.places
        patches = key if places is None else key[:, places.to(key.device, non_blocking=True)]
        grouped = query.detach().float().unflatten(0, (len(key), -1))
        scores = scaling * grouped @ patches.detach().float()[:, None].transpose(2, 3)
        shares.append(scores.softmax(dim=-1).mean(dim=(0, 1)))
    return torch.stack(shares)


def _through(shares: Tensor, to_tokens: Callable[[Tensor], Tensor], patch_map: Tensor) -> Tensor:
    """[views, patches] -> [N]."""
    return to_tokens((shares.to(patch_map.device) @ patch_map[..., None])[..., 0])
