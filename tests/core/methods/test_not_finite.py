"""What methods say of embeddings that are not finite, as half precision leaves them when it overflows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings

from support.backends import both_backends, host
from support.units import Unit
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.discovery.registry import CORE_COMPONENTS
from vflowopt.testing import host_units

OFFERED = ("attention", "class_attention", "saliency", "entropy", "keys", "text", "features", "vision_depth")
SCORERS = [kind() for kind in CORE_COMPONENTS if kind.kind == "scorer"] + [CalibratedAttention(diversity=0.5)]
COMPARING = {str(scorer): scorer for scorer in SCORERS if "features" in scorer.needs}


def test_those_that_compare_tokens_are_among_them():
    assert {scorer.name for scorer in COMPARING.values()} >= {"divprune", "mmr", "lrcp", "evs", "calibrated-attention"}


@both_backends
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("scorer", COMPARING.values(), ids=COMPARING)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what is done on purpose
@settings(max_examples=10)
@given(unit=host_units(max_side=3))
def test_importance_is_not_finite_either(scorer, wrong, backend, unit):
    patched = np.flatnonzero(~unit.layout.structural)
    assume(len(patched))
    features = unit.features.copy()
    features[patched[len(patched) // 2], 1] = wrong
    context = Unit(replace(unit, features=features), backend, OFFERED)
    importance = host(scorer.score_retaining(context, 2).importance)
    assert not np.isfinite(importance[patched]).all()
