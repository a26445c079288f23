"""Models that accelerate has dispatched: pruned to the bit as without its hooks, for every family."""

import importlib

import pytest
import torch

from support.cases import BY_DECODER
from vflowopt_hf.testing.subject import Subject

accelerate = pytest.importorskip("accelerate")


def dispatch(subject, folder):
    """Hooks on every module, as for several devices; what projects, the head and every other decoder layer on disk."""
    model, parts = subject.model, dict(subject.model.named_modules())
    names = {module: name for name, module in parts.items()}
    backbone, decoder = names[subject.family.backbone(model)], names[subject.family.decoder(model)]
    opened, places = {"", backbone, decoder, f"{decoder}.layers"}, {}
    for name in (*parts, *dict(model.named_parameters())):
        parent = name.rpartition(".")[0]
        if name not in opened and parent in opened:
            decoding, first = name.startswith(f"{decoder}."), len(places) == 0  # upstream asks the first for its device
            on_disk = name.endswith(("1", "3", "5")) if decoding else name in parts and not first
            places[name] = "disk" if on_disk else "cpu"
    accelerate.dispatch_model(model, places, offload_dir=folder, force_hooks=True)
    assert any(parameter.is_meta for parameter in decoder_of(subject).parameters())


def decoder_of(subject):
    return subject.family.decoder(subject.model)


def answers(subject, batch, strategy):
    """Logits of a forward, a greedy continuation, and the report."""
    placeholders = list(subject.family.placeholder_ids(subject.model).values())
    with subject.prune(strategy) as pruning, torch.no_grad():
        logits = subject.model(**batch.inputs).logits
        tokens = subject.model.generate(**batch.inputs, max_new_tokens=3, do_sample=False, suppress_tokens=placeholders)
        return logits, tokens, pruning.report


@pytest.mark.parametrize("name", BY_DECODER)
def test_a_dispatched_model(name, tmp_path):
    case = importlib.import_module(f"support.cases.{name}").CASE
    plain, dispatched = Subject(case, "sdpa"), Subject(case, "sdpa")
    batch = plain.batch(plain.image(1), plain.several())
    strategy = plain.strategy(batch)
    expected = answers(plain, batch, strategy)
    dispatch(dispatched, tmp_path)
    got = answers(dispatched, batch, strategy)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[2] == expected[2]
    assert got[2].retention < 1
