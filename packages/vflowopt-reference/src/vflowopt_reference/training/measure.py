"""Quick accuracy during training, on packed validation scenes; the published figures come from ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..architectures.base import Architecture
from ..geometry import Canvas
from ..questions import DESCRIBE
from .examples import make_batch
from .objective import PatchNames, answer_scores, visual_tokens


@torch.no_grad()
def packed_accuracy(
    architecture: Architecture, model: Any, canvases: Sequence[Canvas], scenes: int, tiled: bool
) -> dict[str, float]:
    """Share of right first answer words per kind, and ``all``; ``scenes`` validation scenes of each canvas."""
    right: dict[str, list[bool]] = {}
    for number, canvas in enumerate(canvases):
        batch = make_batch(architecture, "validation", number, 0, scenes, canvas, 16)
        with torch.autocast("cpu", torch.bfloat16):
            visual, _ = visual_tokens(architecture, model, batch, tiled)
            best = answer_scores(architecture, model, batch, visual).argmax(-1)
        for row, asked in enumerate(batch.asked):
            for kind, place in asked:
                right.setdefault(kind, []).append(bool(best[row, place] == batch.targets[row, place]))
    every = [hit for kind, hits in right.items() if kind != DESCRIBE for hit in hits]
    return {"all": sum(every) / len(every)} | {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}


@torch.no_grad()
def patch_accuracy(
    architecture: Architecture, model: Any, names: PatchNames, canvas: Canvas, scenes: int
) -> dict[str, float]:
    """Share of object cells named right, per colour, shape, digit, and of background cells, at full resolution."""
    batch = make_batch(architecture, "validation", 99, 0, scenes, canvas, 1)
    first = min(1, batch.pixels.shape[1] - 1)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = architecture.cell_vectors(model, batch.pixels[:, first:].flatten(0, 1))
    scores = names(vectors, model.get_input_embeddings().weight)
    labels = batch.labels[:, first:].flatten(0, 1)
    result = {"background": float((scores[0].argmax(-1) == 0)[labels[..., 0] == 0].float().mean())}
    for group, name in enumerate(("color", "shape", "digit")):
        wanted = labels[..., group]
        result[name] = float((scores[group].argmax(-1) == wanted)[wanted > 0].float().mean())
    return result
