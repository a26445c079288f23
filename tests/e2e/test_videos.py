"""Videos on the command line, with the reference model, whose processor takes clips without torchvision."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vflowopt.cli import app

reference = pytest.importorskip("vflowopt_reference")
if not (reference.path() / "model.safetensors").exists():
    pytest.skip("the weights are not there yet", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")

FRAME = 49  # visual tokens of a frame: 14 x 14 patches, pooled to 7 x 7; a separator ends the video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A scene that moves to the right, 6 frames, in two forms."""
    directory = tmp_path_factory.mktemp("clip")
    scene = np.asarray(reference.held_out(1, seed=0, split="test")[0].image)
    moving = [np.roll(scene, 12 * step, axis=1) for step in range(6)]
    np.save(directory / "clip.npy", np.stack(moving))
    (directory / "frames").mkdir()
    for number, frame in enumerate(moving):
        Image.fromarray(frame).save(directory / "frames" / f"{number}.png")
    return directory


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


ASK = ("-p", "what digit is on the red circle?", "-s", "mean-attention@0.5", "--max-new-tokens", 1)


def test_run_takes_images_and_videos_with_a_budget_for_each(clip):
    image = ("-i", clip / "frames" / "0.png")
    told = json.loads(run("run", "-m", "reference", "-v", clip / "clip.npy", "--frames", 3, *image, *ASK, "--json"))
    picture, video = told["units"]  # in prompt order
    assert video["tokens"] == 3 * FRAME + 1
    assert picture["tokens"] != video["tokens"]
    assert [unit["counts"] for unit in told["units"]] == [[(unit["tokens"] + 1) // 2] for unit in told["units"]]


def test_a_directory_is_the_same_video_as_an_array(clip):
    both = [
        json.loads(run("run", "-m", "reference", "-v", clip / name, *ASK, "--json")) for name in ("clip.npy", "frames")
    ]
    assert both[0]["units"] == both[1]["units"] == [{"tokens": 6 * FRAME + 1, "counts": [(6 * FRAME + 2) // 2]}]
    assert both[0]["pruned"]["text"] == both[1]["pruned"]["text"]


def test_show_draws_a_contact_sheet(clip, tmp_path):
    """Kept tokens show the frames' own colours, those of the first frame and the last among them."""
    run(
        "show",
        "-m",
        "reference",
        "-v",
        clip / "clip.npy",
        *ASK[:2],
        "-s",
        "mean-attention@1",
        "--out",
        tmp_path / "p.png",
    )
    with Image.open(tmp_path / "p.png") as picture:
        drawn = np.asarray(picture).reshape(-1, 3).astype(int)
    assert len(drawn) > 500_000
    for frame in np.load(clip / "clip.npy")[[0, -1]]:
        colours, counts = np.unique(frame.reshape(-1, 3), axis=0, return_counts=True)
        commonest = colours[counts.argmax()].astype(int)
        assert (np.abs(drawn - commonest).max(axis=1) <= 2).sum() > 1000


def test_evaluate_and_optimize_take_videos(clip, tmp_path):
    lines = [
        {"video": name, "question": "what digit is on the red circle?", "answer": "3"}
        for name in ("clip.npy", "frames")
    ]
    (clip / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ("--data", clip / "q.jsonl", "--frames", 2)
    rows = json.loads(run("evaluate", "-m", "reference", *data, "-s", "random@0.5", "--json"))
    assert rows[1]["tokens"] == [2 * FRAME + 1, (2 * FRAME + 2) // 2]
    search = ("optimize", "-m", "reference", "--budget", 0.5, "--initial", 2, "--iterations", 0, "--json")
    found = json.loads(run(*search, *data, "--out", tmp_path / "s.json"))
    again = json.loads(run(*search, "-v", clip / "clip.npy", "--frames", 2, "--out", tmp_path / "s.json"))
    assert [result["strategy"]["provenance"]["samples"] for result in (found, again)] == [2, 1]
