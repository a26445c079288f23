"""How near rotary positions leave two tokens, against upstream's own turning of vectors of ones."""

import importlib

import pytest
import torch

from support.cases import gemma4, kimi_k25, minicpm_v4_6, qwen2_vl
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.decoder.layer_kinds import has_keys
from vflowopt_hf.plans.decoder_attention import attention_module
from vflowopt_hf.plans.rotary import Rotary
from vflowopt_hf.testing.subject import Subject

CASES = {"all": qwen2_vl.CASE, "a quarter": minicpm_v4_6.CASE, "proportional": gemma4.CASE, "latent": kimi_k25.CASE}
TURNED = {"all": (12, 12), "a quarter": (12, 4), "proportional": (16, 16), "latent": (12, 8)}
"""Dimensions of a head, and those of the tables."""


def handed(case):
    """The attention of the last layer that has one, and the tables that the layer is called with."""
    own, seen = Subject(case, "sdpa"), []
    decoder = own.family.decoder(own.model)
    last = max(index for index in range(len(decoder.layers)) if has_keys(decoder.config, index))
    layer = decoder.layers[last]
    note = lambda _module, _args, kwargs: seen.append(kwargs["position_embeddings"])  # noqa: E731
    with layer.register_forward_pre_hook(note, with_kwargs=True), torch.no_grad():
        own.model(**own.batch(own.image(1), own.several()).inputs)
    return attention_module(layer), seen[0]


@pytest.mark.parametrize("name", CASES)
def test_ones_are_as_near_as_upstream_leaves_them(name):
    attention, tables = handed(CASES[name])
    size, width = TURNED[name]
    assert tables[0].shape[-1] == width
    rotary = Rotary.of(tables, attention, size)
    rows = torch.arange(tables[0].shape[1])
    turn = importlib.import_module(type(attention).__module__).apply_rotary_pos_emb
    for sample in range(len(tables[0])):
        cosines, sines = (table[sample : sample + 1].double() for table in tables)
        part = torch.ones(1, 1, len(rows), width if name == "latent" else size, dtype=torch.float64)
        if name == "proportional":  # its function turns one of both
            query = key = turn(part, cosines, sines)
        else:
            query, key = turn(part, part.clone(), cosines, sines)
        expected = (query[0, 0] @ key[0, 0].T + size - part.shape[-1]) / size
        found = rotary.closeness(sample, rows, rows, size)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda cosines, sines: torch.complex(cosines, sines), r"a tensor of torch.complex64"),
        (lambda cosines, sines: (cosines[..., :6], sines[..., :6]), r"tables of shape \[1, 9, 6\]"),
        (lambda cosines, sines: (cosines[None], sines[None]), r"tables of shape \[1, 1, 9, 12\]"),
        (lambda cosines, _sines: [cosines], "list"),
    ],
    ids=["complex numbers", "one of each pair", "several axes", "a list"],
)
def test_what_is_no_table_of_every_turned_dimension_is_refused(change, kind):
    angles = torch.rand(1, 9, 12)
    rotary = Rotary(change(angles.cos(), angles.sin()), frozenset({12}))
    message = rf"rotary positions are {kind}, not tables \[batch, positions, 12\] of cosines and sines"
    with pytest.raises(UnsupportedModelError, match=message):
        rotary.closeness(0, torch.arange(3), torch.arange(3), 12)
