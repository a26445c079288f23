"""The hybrid decoder starts from one with full attention, and its layers learn what those give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from vflowopt_reference import held_out, load_model, load_processor
from vflowopt_reference.architectures import named
from vflowopt_reference.evaluate import accuracy
from vflowopt_reference.recipes import HYBRID
from vflowopt_reference.training.branches import Branches
from vflowopt_reference.training.examples import Batch, make_batch
from vflowopt_reference.training.mixers import mixer_losses
from vflowopt_reference.training.objective import PatchNames, answer_scores, visual_tokens
from vflowopt_reference.training.phases import phase_groups, phase_losses
from vflowopt_reference.training.start import start

HYBRID_MODEL, PARENT = named("reference-qwen35"), named("reference-qwen2vl")
CANVAS = (112, 160)


@cache
def parent() -> Any:
    return load_model("reference-qwen2vl")


def started() -> Any:
    model = HYBRID_MODEL.build(seed=0)
    start(HYBRID_MODEL, model, 0, 1)
    return model


def batch_of(architecture: Any, scenes: int = 2, branches: int = 3) -> Batch:
    return make_batch(architecture, "validation", 0, 0, scenes, CANVAS, branches)


def test_it_sees_what_its_parent_sees() -> None:
    """Another normalisation of pixels, other names of parameters, a bias that Qwen2-VL has not: the same tokens."""
    with torch.no_grad():
        own, _ = visual_tokens(HYBRID_MODEL, started(), batch_of(HYBRID_MODEL), tiled=True)
        theirs, _ = visual_tokens(PARENT, parent(), batch_of(PARENT), tiled=True)
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


def test_norms_and_mlps_compute_what_its_parents_do() -> None:
    states = torch.randn(1, 5, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for own, theirs in zip(
            started().model.language_model.layers, parent().model.language_model.layers[:8], strict=True
        ):
            torch.testing.assert_close(own.input_layernorm(states), theirs.input_layernorm(states))
            given = own.mlp(own.post_attention_layernorm(states))
            torch.testing.assert_close(given, theirs.mlp(theirs.post_attention_layernorm(states)))


def test_recurrent_layers_follow_upstreams_pattern() -> None:
    kinds = HYBRID_MODEL.configuration().text_config.layer_types
    assert kinds == 2 * [*3 * ["linear_attention"], "full_attention"]


def test_branches_are_split_and_joined() -> None:
    batch = batch_of(HYBRID_MODEL, branches=4)
    branches = Branches.of(batch)
    rows = branches.split(batch.ids)
    assert branches.scene.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for number, row in enumerate(rows):
        own = batch.ids[number // 4][batch.branch[number // 4] == number % 4]
        assert row.tolist() == [*own.tolist(), *[0] * (len(row) - len(own))]
    assert torch.equal(branches.join(rows)[branches.real], batch.ids[batch.branch >= 0])


def test_answers_teach_what_recurrent_layers_keep_of_the_image() -> None:
    """The gradient of the branches' scores goes through the states that the image left, as if in one sequence."""
    model, batch = started(), batch_of(HYBRID_MODEL, scenes=1, branches=1)
    with torch.no_grad():
        visual, _ = visual_tokens(HYBRID_MODEL, model, batch, tiled=True)
    gradients = list[Tensor]()
    for whole in (False, True):
        given = visual.clone().requires_grad_()
        scores = alone(model, batch, given) if whole else answer_scores(HYBRID_MODEL, model, batch, given)
        torch.autograd.backward(scores.square().sum())
        assert given.grad is not None
        gradients.append(given.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


def alone(model: Any, batch: Batch, visual: Tensor) -> Tensor:
    """Scores of the only branch, the stock decoder on one sequence."""
    embed = model.get_input_embeddings()
    head = embed(torch.tensor([[HYBRID_MODEL.task.vocabulary[word] for word in ("<|im_start|>", "user")]]))
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([head, visual, embed(batch.ids)], 1),
        position_ids=HYBRID_MODEL.positions(batch.canvas, visual.shape[1], batch.offset),
        use_cache=False,
    ).last_hidden_state
    scores: Tensor = model.lm_head(hidden[:, -batch.ids.shape[1] :])
    return scores


def test_a_layer_that_gives_nothing_is_off_by_one_in_image_and_text() -> None:
    model = started()
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            mixer = layer.linear_attn.out_proj if hasattr(layer, "linear_attn") else layer.self_attn.o_proj
            mixer.weight.zero_()
        loss = mixer_losses(HYBRID_MODEL, model, parent(), batch_of(HYBRID_MODEL))["total"]
    assert float(loss) == pytest.approx(16.0, rel=1e-5)


def test_the_first_phase_trains_mixers_alone_and_none_the_tower() -> None:
    model, names = started(), PatchNames()
    for phase in HYBRID:
        trained = {name for group in phase_groups(phase, model, names) for name, _ in group.named}
        assert not any("visual" in name or "log_scale" in name for name in trained)
        assert any("mlp" in name for name in trained) == (phase.name != "mixers")
        assert {"linear_attn", "self_attn"} <= {name.split(".")[4] for name in trained if ".layers." in name}


def test_a_tower_that_does_not_learn_gets_no_gradient() -> None:
    model, phase = started(), replace(HYBRID[1], scenes=1)
    torch.autograd.backward(phase_losses(HYBRID_MODEL, phase, model, PatchNames(), batch_of(HYBRID_MODEL))["total"])
    assert all(parameter.grad is None for parameter in model.model.visual.parameters())
    assert model.model.language_model.layers[0].linear_attn.A_log.grad.abs().min() > 0


def test_answers_go_through_recurrent_layers() -> None:
    model, examples = load_model("reference-qwen35"), held_out(16, seed=3)
    processor = load_processor("reference-qwen35")
    for layer in model.model.language_model.layers[:3]:
        layer.linear_attn.register_forward_hook(lambda _module, _given, out: torch.zeros_like(out))
    counts = accuracy(model, processor, examples)
    assert sum(right for right, _ in counts.values()) <= 4  # guessing gets an eighth
