"""Lets torchvision's wheel from PyPI, which is for CUDA, be imported beside a CPU build of torch.

Its C++ library cannot be loaded there, and torchvision leaves it out, but registers a stand-in of two operators whether
or not it is there. Once their schemas are known, its parts in plain Python work: transforms, which is all that image
processors take. A ``.pth`` file imports this module in each process of the environment of ``make test-vllm``.
"""

import importlib.abc
import sys
from typing import Any

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; defines the schemas when torchvision is looked for."""

    library: Any = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        """See the class."""
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + SCHEMA)


sys.meta_path.insert(0, BeforeTorchvision())
