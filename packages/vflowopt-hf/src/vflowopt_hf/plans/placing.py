"""Host arrays on the device: each made and copied once, however many forwards ask for it."""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def on_device(host: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """A host array as a tensor on a device; the copy is not waited for.

    What is made in inference mode may be used outside, where a tensor of that mode could not be saved for gradients.
    """
    with torch.inference_mode(mode=False):
        tensor, place = torch.from_numpy(host), torch.device(device)
        if place.type != "cuda":
            return tensor.to(place, non_blocking=True)
        # From pageable memory, CUDA would copy to a buffer of its own first.
        return tensor.pin_memory().to(place, non_blocking=True)
