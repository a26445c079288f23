"""vflowopt inside unmodified vLLM: the first stage, before the language model.

vLLM loads :mod:`vflowopt_vllm.plugin` in each of its processes, which registers the served models under names of their
own. :func:`engine_options` says how to start an engine with one of them and a strategy.
"""

from vflowopt_vllm.options import engine_options

__all__ = ["engine_options"]
__version__ = "0.1.0"
