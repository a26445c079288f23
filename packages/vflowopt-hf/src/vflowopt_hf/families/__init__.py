"""One file per model family; see :class:`vflowopt_hf.family.Family`."""
