"""The training run: phases in order, checkpoints, exports; stopping and starting again changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..architectures.base import Architecture
from ..geometry import VIEW
from ..recipes import Phase
from .export import export
from .measure import packed_accuracy, patch_accuracy
from .objective import PatchNames
from .optimiser import Optimiser, share
from .phases import phase_batch, phase_groups, phase_teacher, train_step
from .start import start


@dataclass(frozen=True, slots=True)
class Run:
    """A directory and what is done in it.

    Attributes:
        architecture: what is trained.
        out: gets ``checkpoint.pt`` and, from the second phase on, ``weights/``.
        phases: in order.
        seed: of the initial weights and of all data.
        every: steps between checkpoints.
        first_look: scenes whose patches the tower's patch embedding starts from.
        log: gets one line at a time.
    """

    architecture: Architecture
    out: Path
    phases: Sequence[Phase]
    seed: int = 0
    every: int = 100
    first_look: int = 1500
    log: Callable[[str], None] = print


def train(run: Run) -> Path:
    """Trains, or goes on from the checkpoint in ``run.out``; returns the directory of the exported weights."""
    run.out.mkdir(parents=True, exist_ok=True)
    architecture = run.architecture
    model, names = architecture.build(run.seed), PatchNames()
    state = _load(run.out / "checkpoint.pt")
    if state is None:
        start(architecture, model, run.seed, run.first_look)
        state = {"phase": 0, "step": 0, "optimiser": None}
    else:
        model.load_state_dict(state["model"])
        names.load_state_dict(state["names"])
        run.log(f"resuming phase {state['phase'] + 1} at step {state['step']}")
    model.train()
    run.log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    for number in range(state["phase"], len(run.phases)):
        phase, first = run.phases[number], state["step"]
        optimiser = Optimiser(phase_groups(phase, model, names), phase.muon)
        teacher = phase_teacher(architecture, phase)
        if state["optimiser"] is not None:
            optimiser.load_state_dict(state["optimiser"])
        started, mean = time.monotonic(), dict[str, float]()
        for step in range(first, phase.steps):
            rate = share(step, phase.steps, phase.warmup, phase.decay)
            batch = phase_batch(architecture, phase, run.seed, step)
            losses = train_step(architecture, phase, model, names, optimiser, batch, rate, teacher)
            mean = {k: v + 0.95 * (mean.get(k, v) - v) for k, v in losses.items()}
            if (step + 1) % 25 == 0:
                pace = (time.monotonic() - started) / (step + 1 - first)
                shown = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
                run.log(f"{phase.name} {step + 1}/{phase.steps} {shown} {pace:.2f} s/step")
            if (step + 1) % run.every == 0 or step + 1 == phase.steps:
                done = step + 1 == phase.steps
                place = {"phase": number + done, "step": 0 if done else step + 1}
                saved = None if done else optimiser.state_dict()
                _save(
                    run.out / "checkpoint.pt",
                    {"model": model.state_dict(), "names": names.state_dict(), "optimiser": saved, **place},
                )
                run.log(f"  {_measure(architecture, phase, model, names)}")
                if phase.name != "tower":
                    export(architecture, model, run.out / "weights")
        state = {"phase": number + 1, "step": 0, "optimiser": None}
    return export(architecture, model, run.out / "weights")


def shortened(phases: Sequence[Phase], factor: float) -> tuple[Phase, ...]:
    """The same phases with ``factor`` times the steps, at least one."""
    return tuple(replace(p, steps=max(1, round(p.steps * factor))) for p in phases)


def _measure(architecture: Architecture, phase: Phase, model: Any, names: PatchNames) -> str:
    model.eval()
    if phase.name == "tower":
        figures = patch_accuracy(architecture, model, names, (VIEW, VIEW), 100)
    elif not phase.tiled:
        figures = packed_accuracy(architecture, model, [(VIEW, VIEW)], 60, tiled=False)
    else:
        figures = packed_accuracy(architecture, model, architecture.task.canvases, 12, tiled=True)
    model.train()
    return " ".join(f"{k} {v:.3f}" for k, v in figures.items())


def _save(path: Path, state: dict[str, Any]) -> None:
    # Written aside and moved: an interrupted write leaves the previous checkpoint whole.
    aside = path.with_suffix(".new")
    torch.save(state, aside)
    aside.replace(path)


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
