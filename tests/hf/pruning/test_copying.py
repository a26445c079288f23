"""What else is done to a model while it is pruned: copied, pickled, saved, moved."""

import copy
import pickle

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.errors import PruningStateError
from vflowopt.methods import FastV

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)
BY_ATTENTION = Strategy(scorer=FastV(), schedule=Progressive(stages=(2, 4), retention=(0.4, 0.5)))

PARTS = {
    "model": lambda model: model,
    "backbone": lambda model: model.model,
    "vision attention": lambda model: model.model.vision_tower.encoder.layers[-1].self_attn,
    "decoder": lambda model: model.model.language_model,
    "decoder layer": lambda model: model.model.language_model.layers[1],
    "decoder attention": lambda model: model.model.language_model.layers[1].self_attn,
}


@pytest.fixture
def model():
    return tiny_onevision()


@pytest.fixture
def inputs(model):
    return image_inputs(model, [[(80, 60)]])


@pytest.mark.parametrize(("copied", "part"), [*((copy.deepcopy, part) for part in PARTS), (pickle.dumps, "model")])
def test_a_copy_would_share_hooks_and_is_refused(model, inputs, copied, part):
    with prune(model, BY_ATTENTION) as pruning, torch.no_grad():
        with pytest.raises(PruningStateError, match="cannot be copied or pickled; leave its"):
            copied(PARTS[part](model))
        model(**inputs)
        assert pruning.report.retention < 1
    copy.deepcopy(PARTS[part](model))


def test_weights_are_saved_as_they_are(model, tmp_path):
    plain = tiny_onevision()
    plain.save_pretrained(tmp_path / "plain")
    with prune(model, BY_ATTENTION):
        model.save_pretrained(tmp_path / "pruned")
        state = model.state_dict()
    saved = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "pruned").iterdir()} == saved
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(weights, plain.state_dict()[name]) for name, weights in state.items())


def test_a_model_that_is_moved_is_pruned_as_it_is_then(model, inputs):
    doubled = tiny_onevision().to(torch.float64)
    inputs64 = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    with torch.no_grad():
        with prune(doubled, STRATEGY):
            expected = doubled(**inputs64).logits
        with prune(model, STRATEGY) as pruning:
            model(**inputs)
            model.to(torch.float64)
            assert torch.equal(model(**inputs64).logits, expected)
            assert pruning.report.retention < 0.5
        assert torch.equal(model(**inputs64).logits, doubled(**inputs64).logits)
