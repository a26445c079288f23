"""``--image``, ``--video`` and ``--frames``: what a question is about, read from files."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.files.images import check_image as check_image
from vflowopt.files.images import open_image as open_image

FRAMES = 32
"""Frames of a video that a model is given: as many as in the paper."""

ImagesOption = Annotated[
    list[Path] | None,
    typer.Option("--image", "-i", metavar="FILE", help="Image file; may be repeated, in prompt order."),
]
VideosOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--video",
        "-v",
        metavar="PATH",
        help="Directory of frames, animated GIF, WebP or PNG, .npy array, or, with PyAV, mp4 and the like; may be "
        "repeated. Videos come after images in the prompt.",
    ),
]
FramesOption = Annotated[
    int, typer.Option("--frames", min=1, metavar="N", help="Frames of a video to use at most, evenly spaced.")
]
