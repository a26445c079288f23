"""What the observed attention of vLLM's vision tower is called with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from vflowopt_hf.family import Unit
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.vision_call import VisionCall, packed_positions


class Observer:
    """Notes what one attention module is called with, between :meth:`open` and :meth:`close`.

    Args:
        module: vLLM's ``MMEncoderAttention`` of the layer.
        class_tokens: leading positions of a view that are no patches.
        values: whether somebody asks for values, too.
    """

    def __init__(self, module: nn.Module, class_tokens: int, *, values: bool) -> None:
        self._class_tokens, self._names = class_tokens, ("query", "key", *(("value",) if values else ()))
        self._calls: list[VisionCall] | None = None
        module.register_forward_pre_hook(self._note, with_kwargs=True)

    def open(self) -> None:
        """Note from now on."""
        self._calls = []

    def close(self, units: Sequence[Unit]) -> TorchAttention:
        """Note no more; the attention over all views of these units, which were encoded meanwhile."""
        calls, self._calls = self._calls or [], None
        lengths = packed_positions(units, self._class_tokens)
        if lengths:
            # Where views are packed, vLLM's own bounds are on the device, and some backends scale them.
            bounds = torch.tensor([0, *accumulate(lengths)])
            calls = [replace(call, bounds=bounds) for call in calls]
        return TorchAttention.of_calls(calls, self._class_tokens, lengths)

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._calls is None:
            return
        states = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        noted = {name: self._heads(module, states[name]) for name in self._names}
        self._calls.append(VisionCall(scaling=float(module.scale), **noted))

    @staticmethod
    def _heads(module: Any, states: Tensor) -> Tensor:
        """[views, positions, heads * head_dim] or [views, positions, heads, head_dim] -> all heads first.

        Under tensor parallelism a rank has some of the heads. All ranks have to choose the same tokens, so each gets
        the heads of all.
        """
        split = states.unflatten(-1, (-1, module.head_size)) if states.ndim == 3 else states
        if get_tensor_model_parallel_world_size() > 1:
            split = tensor_model_parallel_all_gather(split.contiguous(), dim=2)
        return split.transpose(1, 2)
