"""Conformance kit: proves on a tiny random model that a family's adapter does what upstream's model does.

::

    from vflowopt_hf.testing import Case, conformance

    @conformance(Case(family=MyFamily(), model=tiny_model, ...))
    def test_my_family(check):
        check()
"""

from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.kit import GEOMETRY, RUNTIME, conformance

__all__ = ["GEOMETRY", "RUNTIME", "Case", "conformance"]
