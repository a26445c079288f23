"""Another attention implementation in the middle of a block: exact where no hook is made for one, else refused."""

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.components.mass import LogMass
from vflowopt.errors import UnsupportedOperationError
from vflowopt.methods import FastV

PLAIN = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6), stages=(0, 2), threshold=1.2, cell=2.5)
MASS = PLAIN.model_copy(update={"mass": LogMass(gamma=1.0)})
BY_ATTENTION = Strategy(scorer=FastV(), schedule=Progressive(stages=(1, 3), retention=(0.4, 0.5)))
SAMPLES = [[(42, 42)], [(30, 120), (50, 50)], []]


def tiny(attention):
    model = tiny_onevision()
    model.model.language_model.set_attn_implementation(attention)
    return model, image_inputs(model, SAMPLES)


@pytest.mark.parametrize("strategy", [PLAIN, MASS], ids=["plain", "mass"])
@pytest.mark.parametrize(("before", "after"), [("eager", "sdpa"), ("sdpa", "eager")])
def test_what_only_changes_masks_follows(strategy, before, after):
    model, inputs = tiny(after)
    with torch.no_grad(), prune(model, strategy):
        expected = model(**inputs).logits[:, -1]
    model, inputs = tiny(before)
    with torch.no_grad(), prune(model, strategy):
        model(**inputs)
        model.model.language_model.set_attn_implementation(after)
        assert torch.equal(model(**inputs).logits[:, -1], expected)


@pytest.mark.parametrize(
    ("strategy", "before", "after"),
    [(BY_ATTENTION, "eager", "sdpa"), (MASS, "sdpa", "flex_attention")],
    ids=["looked at", "to be changed"],
)
def test_what_needs_hooks_is_refused(strategy, before, after):
    model, inputs = tiny(before)
    with torch.no_grad(), prune(model, strategy):
        expected = model(**inputs).logits[:, -1]
        model.model.language_model.set_attn_implementation(after)
        with pytest.raises(UnsupportedOperationError, match=rf"was '{before}' .* is '{after}' now.* before prune\(\)"):
            model(**inputs)
        model.model.language_model.set_attn_implementation(before)
        assert torch.equal(model(**inputs).logits[:, -1], expected)
