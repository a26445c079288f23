"""The phases' data, losses and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..architectures.base import Architecture
from ..geometry import VIEW, Canvas
from ..recipes import Phase, PhaseName
from ..task import Task
from .examples import Batch, make_batch
from .mixers import mixer_losses
from .objective import PatchNames, answer_loss, answer_scores, visual_tokens
from .optimiser import Group, Optimiser
from .precision import reduced_precision
from .start import shipped

NAMES_WEIGHT: Final = 0.3
"""Weight of the patch names' loss beside the answers'."""


def phase_batch(architecture: Architecture, phase: Phase, seed: int, step: int) -> Batch:
    """The batch of a step: a function of the phase, the seed and the step alone, so that a run can be resumed."""
    key = 10 * seed + 1 + get_args(PhaseName).index(phase.name)
    canvas, scenes = canvas_of(architecture.task, phase, key, step), phase.scenes
    if phase.tiled:
        scenes = max(4, round(scenes * (2 * VIEW**2 / (canvas[0] * canvas[1])) ** 0.5))
    return make_batch(
        architecture, "train", key, step * 16, min(scenes, 16), canvas, phase.branches, phase.emphasis, phase.left_out
    )


def canvas_of(task: Task, phase: Phase, key: int, step: int) -> Canvas:
    """One canvas per step, so that nothing needs padding; the tower sees every fourth step views of larger ones."""
    rng = np.random.default_rng([key, step])
    if phase.name in ("view", "restart") or (phase.name == "tower" and step % 4):
        return VIEW, VIEW
    return task.canvases[int(rng.integers(len(task.canvases)))]


def phase_groups(phase: Phase, model: Any, names: PatchNames) -> list[Group]:
    """What a phase trains. Word embeddings take part from the first phase on: they name patches."""
    seeing, speaking = list[tuple[str, nn.Parameter]](), list[tuple[str, nn.Parameter]]()
    for name, parameter in model.named_parameters():
        sees = any(part in name for part in ("vision_tower", "multi_modal_projector", "visual."))
        if sees or (phase.decoder_rate == 0 and "embed_tokens" in name):
            seeing.append((name, parameter))
        elif phase.decoder_rate:
            speaking.append((name, parameter))
    if phase.name == "mixers":
        speaking = [(name, parameter) for name, parameter in speaking if "_attn." in name]
    groups = [
        Group((*seeing, *names.named_parameters()), phase.tower_rate),
        Group(tuple(speaking), phase.decoder_rate),
    ]
    return [group for group in groups if group.rate]


def phase_teacher(architecture: Architecture, phase: Phase) -> Any:
    """The model that a phase learns from, if it does."""
    return shipped(architecture.weights_from) if phase.name == "mixers" and architecture.weights_from else None


def phase_losses(
    architecture: Architecture, phase: Phase, model: Any, names: PatchNames, batch: Batch, teacher: Any = None
) -> Mapping[str, Tensor]:
    """``total``, to be minimised, and its parts."""
    if teacher is not None:
        return mixer_losses(architecture, model, teacher, batch)
    embeddings = model.get_input_embeddings().weight
    if phase.name == "tower":
        # At scale 1 base view and tile of a one-view canvas are the same picture; once is enough.
        first = 1 if batch.pixels.shape[1] == 2 else 0
        pixels, labels = batch.pixels[:, first:].flatten(0, 1)[:14], batch.labels[:, first:].flatten(0, 1)[:14]
        loss = names.loss(architecture.cell_vectors(model, pixels), embeddings, labels)
        return {"total": loss, "names": loss}
    with torch.set_grad_enabled(phase.tower_rate > 0 and torch.is_grad_enabled()):
        visual, vectors = visual_tokens(architecture, model, batch, tiled=phase.tiled)
    answered = answer_loss(answer_scores(architecture, model, batch, visual), batch)
    if not phase.tower_rate:
        return {"total": answered}
    named = names.loss(vectors, embeddings, batch.labels[:, : vectors.shape[1]])
    return {"total": answered + NAMES_WEIGHT * named, "answers": answered, "names": named}


def train_step(
    architecture: Architecture,
    phase: Phase,
    model: Any,
    names: PatchNames,
    optimiser: Optimiser,
    batch: Batch,
    rate: float,
    teacher: Any = None,
) -> dict[str, float]:
    """One step at ``rate`` of the peak learning rates; the losses before it."""
    with reduced_precision():
        losses = phase_losses(architecture, phase, model, names, batch, teacher)
    losses["total"].backward()
    optimiser.step(rate)
    return {name: float(loss.detach()) for name, loss in losses.items()}
