"""A small, really trained LLaVA-OneVision model, the processor to feed it, and questions to measure it with.

The architecture is the stock one of transformers: load the weights at :func:`path` as any other model's. Importing this
package imports neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataset import Example, held_out
from .questions import KINDS

if TYPE_CHECKING:
    from .processor import ReferenceProcessor

__version__ = "0.1.0"
__all__ = ["KINDS", "Example", "held_out", "load_model", "load_processor", "path"]


def path() -> Path:
    """The directory of the shipped weights, for ``LlavaOnevisionForConditionalGeneration.from_pretrained``."""
    return Path(__file__).parent / "weights"


def load_model(**options: Any) -> Any:
    """The model in evaluation mode, float32 unless ``dtype`` says otherwise.

    Args:
        options: for ``LlavaOnevisionForConditionalGeneration.from_pretrained``.
    """
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    options.setdefault("dtype", torch.float32)
    return LlavaOnevisionForConditionalGeneration.from_pretrained(path(), **options).eval()


def load_processor(directory: Path | None = None) -> ReferenceProcessor:
    """The processor of the shipped weights, or of others that ``vflowopt_reference.train`` wrote to ``directory``."""
    from .processor import ReferenceProcessor

    return ReferenceProcessor.load(path() if directory is None else directory)
