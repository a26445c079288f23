"""What pruning does to the reference model, in one table: ``python -m vflowopt_reference.study``.

Searched strategies against ablations and baselines at equal budgets on held-out questions, the search against random
search, and the cost of an evaluation against the paper's own procedure.
"""
