"""The command line under torchrun: one result, and the strategy file of a single process."""

import subprocess
import sys

import pytest

from e2e.test_cli import run
from support import checkpoint, tiny

pytestmark = pytest.mark.slow


def test_optimize_in_two_processes_writes_what_one_does(tmp_path):
    model, images = checkpoint.save(tmp_path / "model"), tmp_path / "images"
    images.mkdir()
    for index, (height, width) in enumerate([(42, 42), (60, 84), (100, 40)]):
        tiny.random_image(height, width, index).save(images / f"{index}.png")
    options = ["--model", model, "--images", images, "--prompt", "w7", "--initial", 3, "--iterations", 1]
    command = ["optimize", "--budget", 0.5, *map(str, options), "--out"]
    run(*command, tmp_path / "one.json")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vflowopt"]
    done = subprocess.run(
        [*launch, *map(str, command), str(tmp_path / "two.json")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()
    assert done.stdout.count("average retention") == 1
    assert done.stderr.count("over the prefills alone") == 1

    refused = subprocess.run(
        [
            *launch,
            "optimize",
            "--budget",
            "0.5",
            "--model",
            model,
            "--images",
            images,
            "--samples",
            "1",
            "--out",
            "x.json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert refused.returncode != 0
    assert "vflowopt: error: 1 samples cannot be spread over 2 processes; launch fewer" in refused.stderr
