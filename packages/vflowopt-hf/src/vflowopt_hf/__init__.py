"""vflowopt for transformers models: the shared runtime, and all families but Qwen's.

Importing this package imports nothing heavy; adapters are found by ``vflowopt`` through their entry point.
"""

__version__ = "0.1.0"
