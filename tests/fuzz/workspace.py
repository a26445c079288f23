"""A directory with everything that commands read, all of it valid."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from support import checkpoint, tiny
from support.command_line import invoke
from vflowopt import Strategy
from vflowopt.budgets.cost import CostModel, Kind, PruningCost
from vflowopt.budgets.curve import Curve

SEARCHED = "3"
"""Evaluations of the searches whose records are tampered with."""


@dataclass(frozen=True)
class Workspace:
    """Files in a directory of their own, and the arguments with which each command succeeds."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "Workspace":
        """Make all files."""
        space = cls(root)
        checkpoint.save(root / "model")
        (root / "images").mkdir()
        for index, (height, width) in enumerate([(42, 42), (60, 84)]):
            tiny.random_image(height, width, index).save(root / "images" / f"{index}.png")
        frames = [Image.new("RGB", (20, 20), (index, 0, 0)) for index in (0, 255)]
        frames[0].save(root / "clip.gif", save_all=True, append_images=frames[1:])
        line = {"image": "images/0.png", "question": "w7", "answers": ["w9"]}
        (root / "questions.jsonl").write_text(json.dumps(line) + "\n")
        (root / "notes.txt").write_text("my notes\n")
        Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.7, 0.6, 0.5), cell=2.0).save(root / "strategy.json")
        space.cost().save(root / "cost.json")
        for command, out in (("optimize", "searched.json"), ("compare", "compared")):
            invoke(command, *space.arguments(command, root / out, {"--initial": SEARCHED}))
        return space

    @property
    def journal(self) -> Path:
        """The journal of a search that has ended."""
        return self.root / "searched.journal.jsonl"

    @property
    def cells(self) -> Path:
        """The cells of a comparison that has ended."""
        return self.root / "compared" / "cells.jsonl"

    def arguments(
        self, command: str, out: Path, changes: Mapping[str, str | None] | None = None, without: Iterable[str] = ()
    ) -> list[str]:
        """What to type after a command for it to succeed, apart from some options."""
        options = {**self.options(command, out), **(changes or {})}
        typed = [part for name, value in options.items() if name not in without for part in (name, value)]
        return [part for part in typed if part is not None]

    def cost(self) -> CostModel:
        """A cost model; of no model in particular."""
        kind = Kind(scorer="random")
        return CostModel(
            architecture="tiny", device="cpu", dtype="float32", num_layers=tiny.LAYERS, decoder=Curve(),
            pruning=(PruningCost(kind=kind, curve=Curve()),),
        )  # fmt: skip

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def options(self, command: str, out: Path) -> dict[str, str | None]:
        """Options of a command by which it succeeds in about a second; ``None`` is a flag's value."""
        model, image, text = str(self / "model"), str(self / "images" / "0.png"), "random@0.5"
        data, images = str(self / "questions.jsonl"), str(self / "images")
        search = {"--images": images, "--prompt": "w7", "--samples": "1"}
        asked = {"--model": model, "--image": image, "--prompt": "w7", "--strategy": text}
        cells = {"--model": model, "--budget": "0.5", "--data": data, "--limit": "1", "--seeds": "1", "--out": str(out)}
        effort = {"--search-data": data, "--samples": "1", "--initial": "1", "--iterations": "0"}
        known: dict[str, dict[str, str | None]] = {
            "adapters": {},
            "ablate": {**cells, **effort, "--study": "search"},
            "bench": {"--model": model, "--image": image, "--budgets": "0.5", "--rounds": "1", "--out": str(out)},
            "calibrate": {"--model": model, "--image": image, "--rounds": "1", "--out": str(out)},
            "compare": {**cells, **effort, "--method": "random", "--no-latency": None},
            "demo": {"--quick": None, "--out": str(out)},
            "evaluate": {"--model": model, "--strategy": text, "--data": data, "--limit": "1", "--max-new-tokens": "1"},
            "fit": {"--model": model, "--method": "fitprune", "--budget": "0.6", **search, "--out": str(out)},
            "flow": {"--model": model, "--strategy": text, "--images": images, "--limit": "1", "--out": str(out)},
            "optimize": {
                "--model": model, "--budget": "0.5", **search, "--initial": "1", "--iterations": "0", "--out": str(out),
            },
            "run": {**asked, "--max-new-tokens": "1"},
            "show": {**asked, "--out": str(out)},
        }  # fmt: skip
        return known[command]
