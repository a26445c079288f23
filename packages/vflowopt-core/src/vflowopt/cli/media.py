"""``--image``, ``--video`` and ``--frames``: what a question is about, read from files."""

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from vflowopt.errors import InputError
from vflowopt.files.video import UNREADABLE

FRAMES = 32
"""Frames of a video that a model is given: as many as in the paper."""

ImagesOption = Annotated[
    list[Path] | None, typer.Option("--image", "-i", help="Image file; may be repeated, in prompt order.")
]
VideosOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--video",
        "-v",
        help="Directory of frames, animated GIF, WebP or PNG, .npy array, or, with PyAV, mp4 and the like; may be "
        "repeated. Videos come after images in the prompt.",
    ),
]
FramesOption = Annotated[int, typer.Option("--frames", min=1, help="Frames of a video to use at most, evenly spaced.")]


def open_image(path: Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error}") from error


def check_image(path: Path) -> None:
    """Fail on an unreadable image before any work is done; decodes nothing.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(path):
            pass
    except UNREADABLE as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error}") from error
