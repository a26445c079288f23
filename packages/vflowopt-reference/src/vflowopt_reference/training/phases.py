"""The five phases: names of patches; questions on one view, twice; questions on tiled canvases of every size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..canvases import CANVASES
from ..geometry import VIEW, Canvas
from ..questions import DESCRIBE
from .examples import Batch, make_batch
from .objective import Model, PatchNames, answer_loss, answer_scores, patch_tokens, visual_tokens
from .optimiser import Group, Optimiser

PhaseName = Literal["tower", "view", "restart", "tiles", "finish"]
NAMES_WEIGHT: Final = 0.3
"""Weight of the patch names' loss beside the answers'."""


@dataclass(frozen=True, slots=True)
class Phase:
    """How long and how fast one phase trains.

    Attributes:
        name: which loss and which data.
        steps: optimiser steps.
        scenes: scenes per step on one view; larger canvases get fewer, so that steps cost about the same.
        branches: most questions per scene.
        tower_rate: peak learning rate of tower, projector and patch names.
        decoder_rate: peak learning rate of the language model; 0 leaves it out.
        warmup: steps until the peak rates.
        emphasis: loss weights of kinds of questions that would otherwise lag behind; 1 for the others.
        decay: the part of the half cosine, from the peak at 0 to the floor at 1, that the rates follow.
    """

    name: PhaseName
    steps: int
    scenes: int
    branches: int
    tower_rate: float
    decoder_rate: float
    warmup: int
    emphasis: Mapping[str, float] = field(default_factory=dict)
    decay: tuple[float, float] = (0.0, 1.0)

    @property
    def tiled(self) -> bool:
        """Whether canvases of every size are tiled, as in use; otherwise one view is all."""
        return self.name in ("tiles", "finish")


# Looking up by shape is learned first; by color it takes a warm restart and more weight.
_LAGGING: Final = {"shape_by_color": 2.0, "digit_by_color": 2.0, DESCRIBE: 2.0}
# By both at once comes last: most of the time one of them would do.
_TOGETHER: Final = {"digit_by_both": 3.0}

PHASES: Final = (
    Phase("tower", 1500, 12, 1, 1.5e-3, 0.0, 40),
    Phase("view", 900, 8, 16, 7e-4, 1.5e-3, 60),
    Phase("restart", 600, 8, 16, 5e-4, 1.4e-3, 40, _LAGGING),
    Phase("tiles", 300, 8, 18, 5e-4, 1.2e-3, 40, _LAGGING, (0.0, 0.5)),
    Phase("finish", 380, 8, 18, 5e-4, 1.2e-3, 40, _TOGETHER, (0.4, 1.0)),
)
"""The shipped recipe."""


def phase_batch(phase: Phase, seed: int, step: int) -> Batch:
    """The batch of a step: a function of the phase, the seed and the step alone, so that a run can be resumed."""
    key = 10 * seed + 1 + [p.name for p in PHASES].index(phase.name)
    canvas, scenes = canvas_of(phase, key, step), phase.scenes
    if phase.tiled:
        scenes = max(4, round(scenes * (2 * VIEW**2 / (canvas[0] * canvas[1])) ** 0.5))
    return make_batch("train", key, step * 16, min(scenes, 16), canvas, phase.branches, phase.emphasis)


def canvas_of(phase: Phase, key: int, step: int) -> Canvas:
    """One canvas per step, so that nothing needs padding; the tower sees every fourth step views of larger ones."""
    rng = np.random.default_rng([key, step])
    if phase.name in ("view", "restart") or (phase.name == "tower" and step % 4):
        return VIEW, VIEW
    return CANVASES[int(rng.integers(len(CANVASES)))]


def phase_groups(phase: Phase, model: Model, names: PatchNames) -> list[Group]:
    """What a phase trains. Word embeddings take part from the first phase on: they name patches."""
    seeing, speaking = list[tuple[str, nn.Parameter]](), list[tuple[str, nn.Parameter]]()
    for name, parameter in model.named_parameters():
        sees = "vision_tower" in name or "multi_modal_projector" in name
        if sees or (phase.decoder_rate == 0 and "embed_tokens" in name):
            seeing.append((name, parameter))
        elif phase.decoder_rate:
            speaking.append((name, parameter))
    groups = [Group((*seeing, *names.named_parameters()), phase.tower_rate)]
    return groups + ([Group(tuple(speaking), phase.decoder_rate)] if speaking else [])


def phase_losses(phase: Phase, model: Model, names: PatchNames, batch: Batch) -> Mapping[str, Tensor]:
    """``total``, to be minimised, and its parts."""
    embeddings = model.get_input_embeddings().weight
    if phase.name == "tower":
        # At scale 1 base view and tile of a one-view canvas are the same picture; once is enough.
        first = 1 if batch.pixels.shape[1] == 2 else 0
        pixels, labels = batch.pixels[:, first:].flatten(0, 1)[:14], batch.labels[:, first:].flatten(0, 1)[:14]
        loss = names.loss(patch_tokens(model, pixels), embeddings, labels)
        return {"total": loss, "names": loss}
    visual, patches = visual_tokens(model, batch, tiled=phase.tiled)
    named = names.loss(patches, embeddings, batch.labels[:, : patches.shape[1]])
    answered = answer_loss(answer_scores(model, batch, visual), batch)
    return {"total": answered + NAMES_WEIGHT * named, "answers": answered, "names": named}


def train_step(
    phase: Phase, model: Model, names: PatchNames, optimiser: Optimiser, batch: Batch, rate: float
) -> dict[str, float]:
    """One step in bfloat16 autocast at ``rate`` of the peak learning rates; the losses before it."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = phase_losses(phase, model, names, batch)
    losses["total"].backward()
    optimiser.step(rate)
    return {name: float(loss.detach()) for name, loss in losses.items()}
