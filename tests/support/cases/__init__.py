"""Cases of the conformance kit, a module for each kind of model that works with the installed transformers."""

import pkgutil

from vflowopt_hf.upstream import installed

SINCE = {"gemma4_e2b": (5, 24), "molmo2": (5, 20)}
"""First release of transformers with which the model works, where it is not the oldest that is supported."""
NAMES = [found.name for found in pkgutil.iter_modules(__path__) if SINCE.get(found.name, installed()) <= installed()]
