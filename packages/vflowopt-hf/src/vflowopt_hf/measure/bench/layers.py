"""Layers of tower and decoder, each compiled by itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from vflowopt import Strategy
from vflowopt_hf.family import Family
from vflowopt_hf.hooks.installing import replaced
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.session import Session


class CompiledLayers:
    """The same compiled layers in every block.

    Args:
        backend: of ``torch.compile``.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self._backend = backend
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}

    @contextmanager
    def pruned(
        self, family: Family, model: Any, strategy: Strategy | None, statistics: PixelStatistics
    ) -> Iterator[None]:
        """The block in which the layers of a model run as they were compiled, pruned or with a strategy of ``None``."""
        with ExitStack() as stack:
            for layer in layers(family, model):
                if layer not in self._compiled:
                    self._compiled[layer] = torch.compile(layer.forward, dynamic=True, backend=self._backend)
                stack.enter_context(replaced(layer, "forward", self._compiled[layer]))
            if strategy is not None:
                stack.enter_context(Session(family, model, strategy, statistics))
            yield


def layers(family: Family, model: Any) -> list[nn.Module]:
    """Of the vision tower, wherever it lists them, and of the decoder."""
    tower: nn.Module = model.get_encoder(modality="image")
    listed = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    inner = {nested for one in listed for entry in one for nested in entry.modules() if nested is not entry}
    own = [entry for one in listed if one not in inner for entry in one]
    return [*own, *family.decoder(model).layers]  # type: ignore[misc]
