"""The training code: batches are what the model will meet, and every phase lowers its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vflowopt_reference import NAMES, load_model, load_processor
from vflowopt_reference.architectures import Architecture, named
from vflowopt_reference.canvases import CANVASES
from vflowopt_reference.recipes import FROM_NOTHING, Phase
from vflowopt_reference.scenes import Scenes
from vflowopt_reference.seeds import stream
from vflowopt_reference.task import IGNORE
from vflowopt_reference.train import main
from vflowopt_reference.training import run
from vflowopt_reference.training.examples import make_batch
from vflowopt_reference.training.export import export
from vflowopt_reference.training.measure import patch_accuracy
from vflowopt_reference.training.objective import PatchNames, answer_scores, visual_tokens
from vflowopt_reference.training.optimiser import Optimiser, share
from vflowopt_reference.training.phases import phase_batch, phase_groups, phase_losses, phase_teacher, train_step
from vflowopt_reference.training.run import Run, shortened, train
from vflowopt_reference.training.start import adopt_decoder, prepare_tower
from vflowopt_reference.vocabulary import DIGITS

ONEVISION = named("reference")
TINY = tuple(replace(phase, scenes=2, branches=4) for phase in FROM_NOTHING)
TRAININGS = {
    f"{name}-{phase.name}": (named(name), replace(phase, scenes=2, branches=4))
    for name in NAMES
    for phase in named(name).phases
}


def losses_on_one_batch(architecture: Architecture, phase: Phase, steps: int) -> list[float]:
    model, names = architecture.build(), PatchNames()
    prepare_tower(architecture, model, seed=0, scenes=20)
    batch = make_batch(architecture, "train", 0, 0, phase.scenes, (112, 112), phase.branches)
    optimiser, teacher = Optimiser(phase_groups(phase, model, names), phase.muon), phase_teacher(architecture, phase)
    return [
        train_step(architecture, phase, model, names, optimiser, batch, 0.5, teacher)["total"] for _ in range(steps)
    ]


ENDS = {f"reference-{phase.name}" for phase in (ONEVISION.phases[0], ONEVISION.phases[-1])}
"""The phases between them are repeats, as are those of all models but one."""


@pytest.mark.parametrize(
    ("architecture", "phase"),
    [
        pytest.param(*training, id=name, marks=[pytest.mark.repeat] * (name not in ENDS))
        for name, training in TRAININGS.items()
    ],
)
def test_a_few_steps_on_one_batch_lower_the_loss(architecture: Architecture, phase: Phase) -> None:
    """With AdamW for everything: Muon multiplies in bfloat16, which takes most processors seconds per step."""
    losses = losses_on_one_batch(architecture, replace(phase, muon=False), 3)
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < losses[0]


WITH_MUON = [
    pytest.param(*training, id=name, marks=() if name == "reference-tower" else pytest.mark.slow)
    for name, training in TRAININGS.items()
    if training[1].muon
]


@pytest.mark.parametrize(("architecture", "phase"), WITH_MUON)
def test_so_do_a_few_steps_of_muon(architecture: Architecture, phase: Phase) -> None:
    losses = losses_on_one_batch(architecture, phase, 6 if phase.decoder_rate else 3)
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_packed_branches_score_like_separate_prompts(name: str, tmp_path: Path) -> None:
    """The block mask and the restarted positions are exactly the stock model on one question at a time."""
    architecture, canvas = named(name), (112, 160)
    model = architecture.build(seed=3).eval()
    processor = load_processor(export(architecture, model, tmp_path))
    batch = make_batch(architecture, "validation", 0, 0, 2, canvas, 3)
    with torch.no_grad():
        packed = answer_scores(architecture, model, batch, visual_tokens(architecture, model, batch, tiled=True)[0])
    for row in range(2):
        image = Image.fromarray(architecture.task.draw(stream("validation", 0, row), canvas).image)
        inputs = processor(images=[image], text=[processor.prompt("what color is the circle?")])
        seen = 2 + int((inputs["input_ids"] == processor.image_token_id).sum())
        for number in range(int(batch.branch[row].max()) + 1):
            mine = batch.branch[row] == number
            ids = torch.cat([inputs["input_ids"][0, :seen], batch.ids[row, mine]])[None]
            pixels = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_sizes", "image_grid_thw")}
            with torch.no_grad():
                alone = model(input_ids=ids, **pixels, **architecture.further_inputs(ids)).logits
            torch.testing.assert_close(packed[row, mine], alone[0, -int(mine.sum()) :], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(named(name).task, Scenes)])
@pytest.mark.parametrize("canvas", CANVASES)
def test_cell_labels_name_the_objects(canvas: tuple[int, int], name: str) -> None:
    item = Scenes().draw(stream("validation", 1, 0), canvas)
    labels = Scenes().labels(named(name), item)
    full = labels[min(1, len(labels) - 1) :]
    wanted = {DIGITS.index(o.digit) + 1 for o in item.objects}
    assert set(full[..., 2][full[..., 2] > 0].tolist()) == wanted
    assert ((labels[..., 0] > 0) == (labels[..., 1] > 0)).all()
    assert (labels[..., 2][labels[..., 0] == 0] == 0).all()
    # At a quarter of the area nobody reads a digit: the base view of large canvases is not asked to.
    assert len(labels) == 1 or (labels[0, :, 2] <= 0).all() or min(canvas) * max(canvas) < 160 * 160
    assert labels.min() >= IGNORE


def test_a_decoder_is_adopted_whole() -> None:
    """Llama computes with the adopted weights what Qwen2 computes; only the tower has to be learned."""
    architecture = named("reference-next")
    model = architecture.build(seed=1)
    adopt_decoder(architecture, model)
    other = load_model()
    states = torch.randn(1, 7, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = model.model.language_model(inputs_embeds=states).last_hidden_state
        theirs = other.model.language_model(inputs_embeds=states).last_hidden_state
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


def test_batches_depend_on_phase_seed_and_step_alone() -> None:
    one, same, other = (phase_batch(ONEVISION, TINY[1], 0, step) for step in (4, 4, 5))
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.ids, same.ids)
    assert not torch.equal(one.pixels, other.pixels)


def test_the_tower_phase_leaves_the_decoder_layers_alone() -> None:
    model, names = ONEVISION.build(), PatchNames()
    trained = {name for group in phase_groups(FROM_NOTHING[0], model, names) for name, _ in group.named}
    assert not any("language_model.layers" in name for name in trained)
    assert any("vision_tower" in name for name in trained)


def test_schedule_rises_then_falls() -> None:
    shares = [share(step, 100, 10) for step in range(100)]
    assert shares[0] < shares[9] <= 1
    assert shares[9] > shares[50] > shares[-1] > 0.02


def test_a_run_can_be_stopped_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps, a stop, and the rest end exactly where an uninterrupted run ends."""
    # Muon keeps momenta, but nothing of this, which is most of its time on a CPU.
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda update, *_: update)
    monkeypatch.setattr(run, "patch_accuracy", lambda *given: patch_accuracy(given[0], given[1], given[2], given[3], 4))
    phases = tuple(replace(p, steps=2) for p in shortened(TINY[:1], 1.0))
    quiet = {"seed": 1, "every": 1, "first_look": 20, "log": lambda line: None}
    whole = train(Run(ONEVISION, tmp_path / "whole", phases, **quiet))  # type: ignore[arg-type]

    class StopError(Exception):
        pass

    calls = []

    def stop(line: str) -> None:
        calls.append(line)
        if line.lstrip().startswith("background"):
            raise StopError

    with pytest.raises(StopError):
        train(Run(ONEVISION, tmp_path / "halves", phases, seed=1, every=1, first_look=20, log=stop))
    halves = train(Run(ONEVISION, tmp_path / "halves", phases, **quiet))  # type: ignore[arg-type]
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()


def test_losses_name_their_parts() -> None:
    model, names = ONEVISION.build(), PatchNames()
    batch = phase_batch(ONEVISION, TINY[2], 0, 0)
    with torch.no_grad():
        assert set(phase_losses(ONEVISION, TINY[2], model, names, batch)) == {"total", "answers", "names"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_command_trains_every_phase(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step of each phase, through the command line, gives weights that the processor and the model load."""
    threads = torch.get_num_threads()
    try:
        main(["--model", name, "--out", str(tmp_path), "--scale", "0.0001", "--threads", "1"])
    finally:
        torch.set_num_threads(threads)
    assert "weights in" in capsys.readouterr().out
    load_processor(tmp_path / "weights")
    assert (tmp_path / "weights" / "model.safetensors").stat().st_size < 10_000_000
