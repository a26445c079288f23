"""Quick accuracy during training, on packed validation scenes; the published figures come from ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..architectures.base import Architecture
from ..geometry import Canvas
from ..questions import DESCRIBE
from ..task import IGNORE
from .examples import make_batch
from .objective import PatchNames, answer_scores, visual_tokens
from .precision import reduced_precision


@torch.no_grad()
def packed_accuracy(
    architecture: Architecture, model: Any, canvases: Sequence[Canvas], scenes: int, tiled: bool
) -> dict[str, float]:
    """Share of right whole answers per kind, and ``all``; ``scenes`` validation scenes of each canvas."""
    right: dict[str, list[bool]] = {}
    for seed, canvas in enumerate(canvases):
        batch = make_batch(architecture, "validation", seed, 0, scenes, canvas, 16)
        with reduced_precision():
            visual, _ = visual_tokens(architecture, model, batch, tiled)
            best = answer_scores(architecture, model, batch, visual).argmax(-1)
        wrong = (best != batch.targets) & (batch.targets != IGNORE)
        for row, asked in enumerate(batch.asked):
            for number, (kind, _) in enumerate(asked):
                # Given the words before it, every word is right just if greedy decoding finds them all.
                right.setdefault(kind, []).append(not bool(wrong[row, batch.branch[row] == number].any()))
    every = [hit for kind, hits in right.items() if kind != DESCRIBE for hit in hits]
    return {"all": sum(every) / len(every)} | {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}


@torch.no_grad()
def patch_accuracy(
    architecture: Architecture, model: Any, names: PatchNames, canvas: Canvas, scenes: int
) -> dict[str, float]:
    """Share of object cells named right, per colour, shape, digit, and of background cells, at full resolution."""
    batch = make_batch(architecture, "validation", 99, 0, scenes, canvas, 1)
    first = min(1, batch.pixels.shape[1] - 1)
    with reduced_precision():
        vectors = architecture.cell_vectors(model, batch.pixels[:, first:].flatten(0, 1))
    scores = names(vectors, model.get_input_embeddings().weight)
    labels = batch.labels[:, first:].flatten(0, 1)
    result = {"background": float((scores[0].argmax(-1) == 0)[labels[..., 0] == 0].float().mean())}
    for group, name in enumerate(("color", "shape", "digit")):
        wanted = labels[..., group]
        result[name] = float((scores[group].argmax(-1) == wanted)[wanted > 0].float().mean())
    return result
