"""VTC-CLS against loops in float64: which layers, how they are combined, and how it is written down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.backends import both_backends, host, to_backend
from vflowopt import Strategy
from vflowopt.errors import StrategyError
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.vtc_cls import VTCCLS
from vflowopt.strategies.reading import read_strategy
from vflowopt.testing import host_units

ENSEMBLES = {"sum": sum, "max": max, "min": min}


class Seen:
    """Of a drawn unit on one of the backends, what VTC-CLS declares, and no more."""

    def __init__(self, unit, backend, declared):
        self.unit, self.backend, self.declared = unit, backend, declared
        self.vision_depth = unit.vision_depth

    def class_attentions(self, layers):
        assert layers <= self.declared
        return to_backend(self.unit.class_attentions(layers), self.backend)

    def to_tokens(self, patch_map):
        return to_backend(self.unit.shares, self.backend) @ patch_map.reshape(-1)


@pytest.mark.parametrize(
    ("depth", "layers", "read"),
    [
        (0.3, 23, 7),  # LLaVA's: from layer 16 to the penultimate one of 24
        (0.3, 24, 8),
        (0.3, 5, 2),
        (0.3, 1, 1),
        (0.07, 100, 7),  # the product is a little above 7
        (1e-12, 24, 1),
        (1.0, 24, 24),
    ],
)
def test_the_share_of_layers(depth, layers, read):
    assert VTCCLS(depth=depth).class_attention_layers(layers) == read


@both_backends
@given(unit=host_units(), depth=st.sampled_from([0.01, 0.3, 0.5, 1.0]), ensemble=st.sampled_from(list(ENSEMBLES)))
def test_importance_is_the_ensemble_of_the_last_layers(backend, unit, depth, ensemble):
    scorer = VTCCLS(depth=depth, ensemble=ensemble)
    layers = [*unit.earlier_class_attention.astype(np.float64), unit.class_attention.astype(np.float64)]
    read = scorer.class_attention_layers(len(layers))
    views, patches = unit.class_attention.shape
    combined = np.array(
        [
            [ENSEMBLES[ensemble]([layer[view, patch] for layer in layers[-read:]]) for patch in range(patches)]
            for view in range(views)
        ]
    )
    importance = host(scorer.score(Seen(unit, backend, read)).importance)
    assert importance.dtype == np.float32
    np.testing.assert_allclose(importance, unit.shares.astype(np.float64) @ combined.ravel(), rtol=1e-5, atol=1e-7)


@given(unit=host_units())
def test_of_one_layer_it_is_fastervlm(unit):
    alone = VTCCLS(depth=1e-6)
    assert alone.needs == FasterVLM().needs
    np.testing.assert_array_equal(alone.score(unit).importance, FasterVLM().score(unit).importance)


def test_by_name():
    chosen = read_strategy("vtc-cls@0.25")(28)
    assert chosen.scorer == VTCCLS(depth=0.3, ensemble="sum")
    assert chosen.schedule.boundaries == (0,)
    assert chosen.schedule.counts(576) == (144,)
    assert chosen.recycler is None
    assert read_strategy("vtc-cls@0.25,depth=0.5,ensemble=max")(28).scorer == VTCCLS(depth=0.5, ensemble="max")
    assert Strategy.parse(chosen.to_json()) == chosen


@pytest.mark.parametrize("option", ["depth=0", "depth=1.1", "depth=nan", "ensemble=median", "layers=3"])
def test_wrong_options(option):
    with pytest.raises(StrategyError, match=option.partition("=")[0]):
        read_strategy(f"vtc-cls@0.25,{option}")(28)
