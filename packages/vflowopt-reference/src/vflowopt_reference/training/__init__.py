"""How the shipped weights were made, from nothing: see :mod:`vflowopt_reference.train`."""
