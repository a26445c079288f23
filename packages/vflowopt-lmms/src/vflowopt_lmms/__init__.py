"""vflowopt as a model of lmms-eval, which finds it through its entry-point group ``lmms_eval.models``.

Importing this package imports nothing heavy.
"""

__version__ = "0.1.0"
