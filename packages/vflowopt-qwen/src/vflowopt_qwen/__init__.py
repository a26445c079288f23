"""vflowopt for the Qwen families, on the runtime of :mod:`vflowopt_hf`.

Importing this package imports nothing heavy; adapters are found by ``vflowopt`` through their entry point.
"""

__version__ = "0.1.0"
