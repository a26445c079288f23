"""The training code: batches are what the model will meet, and every phase lowers its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vflowopt_reference import load_processor
from vflowopt_reference.canvases import CANVASES
from vflowopt_reference.model import build
from vflowopt_reference.scene import scene
from vflowopt_reference.seeds import stream
from vflowopt_reference.train import main
from vflowopt_reference.training.examples import IGNORE, make_batch, patch_labels
from vflowopt_reference.training.export import export
from vflowopt_reference.training.objective import PatchNames, answer_scores, visual_tokens
from vflowopt_reference.training.optimiser import Optimiser, share
from vflowopt_reference.training.phases import PHASES, Phase, phase_batch, phase_groups, phase_losses, train_step
from vflowopt_reference.training.run import Run, shortened, train
from vflowopt_reference.training.start import prepare_tower
from vflowopt_reference.vocabulary import DIGITS, VOCABULARY

TINY = tuple(replace(phase, scenes=2, branches=4) for phase in PHASES)


@pytest.mark.parametrize("phase", TINY, ids=lambda phase: phase.name)
def test_a_few_steps_on_one_batch_lower_the_loss(phase: Phase) -> None:
    model, names = build(), PatchNames()
    prepare_tower(model, seed=0, scenes=20)
    batch = make_batch("train", 0, 0, phase.scenes, (112, 112), phase.branches)
    optimiser = Optimiser(phase_groups(phase, model, names))
    losses = [train_step(phase, model, names, optimiser, batch, 0.5)["total"] for _ in range(6)]
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < losses[0]


def test_packed_branches_score_like_separate_prompts(tmp_path: Path) -> None:
    """The block mask and the restarted positions are exactly the stock model on one question at a time."""
    model: Any = build(seed=3)
    model.eval()
    processor = load_processor(export(model, tmp_path))
    batch = make_batch("validation", 0, 0, 2, (112, 160), 5)
    with torch.no_grad():
        packed = answer_scores(model, batch, visual_tokens(model, batch, tiled=True)[0])
    image = torch.tensor([processor.image_token_id] * visual_tokens(model, batch, tiled=True)[0].shape[1])
    head = torch.tensor([VOCABULARY["<|im_start|>"], VOCABULARY["user"]])
    for row in range(2):
        for number in range(int(batch.branch[row].max()) + 1):
            mine = batch.branch[row] == number
            with torch.no_grad():
                alone = model(
                    input_ids=torch.cat([head, image, batch.ids[row, mine]])[None],
                    pixel_values=batch.pixels[row][None],
                    image_sizes=torch.tensor([batch.canvas]),
                ).logits[0, -int(mine.sum()) :]
            torch.testing.assert_close(packed[row, mine], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("canvas", CANVASES)
def test_patch_labels_name_the_objects(canvas: tuple[int, int]) -> None:
    item = scene(stream("validation", 1, 0), canvas)
    labels = patch_labels(item)
    tiles = labels[1:]
    wanted = {DIGITS.index(o.digit) + 1 for o in item.objects}
    assert set(tiles[..., 2][tiles[..., 2] > 0].tolist()) == wanted
    assert ((labels[..., 0] > 0) == (labels[..., 1] > 0)).all()
    assert (labels[..., 2][labels[..., 0] == 0] == 0).all()
    # At a quarter of the area nobody reads a digit: the base view of large canvases is not asked to.
    assert (labels[0, :, 2] <= 0).all() or min(canvas) * max(canvas) < 160 * 160
    assert labels.min() >= IGNORE


def test_batches_depend_on_phase_seed_and_step_alone() -> None:
    one, same, other = (phase_batch(TINY[1], 0, step) for step in (4, 4, 5))
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.ids, same.ids)
    assert not torch.equal(one.pixels, other.pixels)


def test_the_tower_phase_leaves_the_decoder_layers_alone() -> None:
    model, names = build(), PatchNames()
    trained = {name for group in phase_groups(PHASES[0], model, names) for name, _ in group.named}
    assert not any("language_model.layers" in name for name in trained)
    assert any("vision_tower" in name for name in trained)


def test_schedule_rises_then_falls() -> None:
    shares = [share(step, 100, 10) for step in range(100)]
    assert shares[0] < shares[9] <= 1
    assert shares[9] > shares[50] > shares[-1] > 0.02


def test_a_run_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    """Two steps, a stop, and the rest end exactly where an uninterrupted run ends."""
    phases = tuple(replace(p, steps=2) for p in shortened(TINY[:1], 1.0))
    quiet = {"seed": 1, "every": 1, "first_look": 20, "log": lambda line: None}
    whole = train(Run(tmp_path / "whole", phases, **quiet))  # type: ignore[arg-type]

    class StopError(Exception):
        pass

    calls = []

    def stop(line: str) -> None:
        calls.append(line)
        if line.lstrip().startswith("background"):
            raise StopError

    with pytest.raises(StopError):
        train(Run(tmp_path / "halves", phases, seed=1, every=1, first_look=20, log=stop))
    halves = train(Run(tmp_path / "halves", phases, **quiet))  # type: ignore[arg-type]
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()


def test_losses_name_their_parts() -> None:
    model, names = build(), PatchNames()
    batch = phase_batch(TINY[2], 0, 0)
    with torch.no_grad():
        assert set(phase_losses(TINY[2], model, names, batch)) == {"total", "answers", "names"}


@pytest.mark.slow
def test_the_command_trains_every_phase_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step of each phase, through the command line, gives weights that the processor and the model load."""
    threads = torch.get_num_threads()
    try:
        main(["--out", str(tmp_path), "--scale", "0.0001", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    assert "weights in" in capsys.readouterr().out
    load_processor(tmp_path / "weights")
    assert (tmp_path / "weights" / "model.safetensors").stat().st_size < 10_000_000
