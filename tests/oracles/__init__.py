"""The paper's equations once more, in float64 and in the plainest form, to test the implementation against.

Nothing here imports vflowopt. Loops and dictionaries are on purpose: an oracle must be checkable by eye against the
equation in its docstring.
"""
