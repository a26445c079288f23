"""vflowopt for transformers models: the shared runtime, and all families but Qwen's.

Importing this package imports nothing heavy; adapters are found by ``vflowopt`` through their entry point.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vflowopt_hf.checkpoint.processing import load_processor

__version__ = "0.1.0"

__all__ = ["__version__", "load_processor"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used."""
    if name == "load_processor":
        from vflowopt_hf.checkpoint import processing

        return processing.load_processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
