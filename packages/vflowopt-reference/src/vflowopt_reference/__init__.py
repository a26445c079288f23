"""Small, really trained multimodal models, the processor to feed them, and questions to measure them with.

Architectures are the stock ones of transformers: load the weights at :func:`path` as any other model's. Importing this
package imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataset import Example, held_out
from .names import NAMES, path
from .questions import KINDS

if TYPE_CHECKING:
    from .processor import ReferenceProcessor

__version__ = "0.1.0"
__all__ = ["KINDS", "NAMES", "Example", "held_out", "load_model", "load_processor", "path"]


def load_model(source: str | Path = "reference", **options: Any) -> Any:
    """A model in evaluation mode, float32 unless ``dtype`` says otherwise.

    Args:
        source: a name out of :data:`NAMES`, or a directory that ``vflowopt_reference.train`` wrote.
        options: for the ``from_pretrained`` of its class.
    """
    import torch

    from .architectures import of_weights

    directory = _directory(source)
    options.setdefault("dtype", torch.float32)
    return of_weights(directory).model_class.from_pretrained(directory, **options).eval()


def load_processor(source: str | Path = "reference") -> ReferenceProcessor:
    """The processor of a model.

    Args:
        source: as for :func:`load_model`.
    """
    from .processor import ReferenceProcessor

    return ReferenceProcessor.load(_directory(source))


def _directory(source: str | Path) -> Path:
    return path(source) if isinstance(source, str) and source in NAMES else Path(source)
