"""Videos on disk: directories of frames, animations, arrays, and, with PyAV, everything that FFmpeg decodes."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vflowopt.errors import InputError
from vflowopt.files.images import IMAGE_SUFFIXES, image_files, open_image, unreadable, upright

Clip = list[Image.Image]
"""Frames of a video, upright, RGB, all of one size."""


@dataclass(frozen=True)
class Video:
    """A video that was opened; frames are decoded when asked for.

    Attributes:
        path: where it lies.
        total: number of frames.
        read: decodes the frames of the given ascending indices.
    """

    path: Path
    total: int
    read: Callable[[Sequence[int]], Clip]

    def sample(self, count: int) -> Clip:
        """At most ``count`` frames, evenly spaced over the whole video, the first and last among them.

        Raises:
            InputError: a frame cannot be decoded, or frames differ in size.
        """
        try:
            frames = self.read(evenly(self.total, count))
        except InputError:
            raise
        except Exception as error:  # decoders raise almost anything on damaged files
            raise unreadable("video", self.path, error) from error
        sizes = sorted({frame.size for frame in frames})
        if len(sizes) != 1:
            raise InputError(f"the frames of a video must have one size, those of {str(self.path)!r} have {sizes}")
        return frames


def evenly(total: int, count: int) -> list[int]:
    """At most ``count`` ascending indices below ``total``, evenly spaced, the first and last among them."""
    chosen: list[int] = np.linspace(0, total - 1, min(total, count)).round().astype(int).tolist()
    return chosen


def open_video(path: Path) -> Video:
    """Find out what a path holds, and how many frames; decodes none, except to count where the file does not say.

    Args:
        path: a directory of images, in the natural order of their names (2 before 10); an animated GIF, WebP or PNG;
            a ``.npy`` file with uint8 [frames, height, width, 3]; or any other file, which PyAV is to decode.

    Raises:
        InputError: it is not there, cannot be read, holds no frames, or needs PyAV, which is not installed.
    """
    if not os.path.exists(path):  # noqa: PTH110 - for over-long names Path.exists() raises
        raise InputError(f"there is no video {str(path)!r}: neither a file nor a directory of frames")
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _directory(path)
        if suffix == ".npy":
            return _array(path)
        return (_animation if suffix in IMAGE_SUFFIXES | {".apng"} else _coded)(path)
    except InputError:
        raise
    except Exception as error:  # as above
        raise unreadable("video", path, error) from error


def _directory(path: Path) -> Video:
    files = image_files(path)
    if not files:
        raise InputError(
            f"the video {str(path)!r} has no frames: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it; "
            "name another directory"
        )
    files.sort(key=lambda file: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)])
    return Video(path, len(files), lambda indices: [open_image(files[index]) for index in indices])


def _animation(path: Path) -> Video:
    with Image.open(path) as image:
        total = int(getattr(image, "n_frames", 1))
    if total == 1:
        raise InputError(f"{str(path)!r} holds a single picture, not a video: give it with --image")

    def read(indices: Sequence[int]) -> Clip:
        frames = []
        with Image.open(path) as animation:
            for index in indices:
                animation.seek(index)
                frames.append(upright(animation))
        return frames

    return Video(path, total, read)


def _array(path: Path) -> Video:
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    shape = tuple(stored.shape)
    if stored.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise InputError(
            f"the video {str(path)!r} must hold uint8 [frames, height, width, 3], not {stored.dtype} {list(shape)}"
        )
    return Video(path, len(stored), lambda indices: [Image.fromarray(np.array(stored[index])) for index in indices])


def _coded(path: Path) -> Video:
    try:
        import av
    except ImportError:
        raise InputError(
            f"reading {str(path)!r} needs PyAV: pip install 'vflowopt-core[video]'; or give a directory of frames, an "
            f"animated GIF, WebP or PNG, or a .npy array"
        ) from None

    def read(indices: Sequence[int]) -> Clip:
        wanted, frames = set(indices), []
        with _decoding(path), av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    frames.append(_turned(frame))
                if len(frames) == len(wanted):
                    break
        if not frames:
            raise InputError(f"the video {str(path)!r} has no frames that can be decoded")
        return frames

    with _decoding(path), av.open(str(path)) as container:
        if not container.streams.video:
            raise InputError(f"{str(path)!r} holds no video")
        total = container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
    if not total:
        raise InputError(f"the video {str(path)!r} has no frames")
    return Video(path, total, read)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """FFmpeg's errors, of which not all are of the usual kinds, as ours."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise unreadable("video", path, error) from error


def _turned(frame: Any) -> Image.Image:
    """A decoded frame as a player shows it: phones say in the file how they were held. Old versions of PyAV do not."""
    image: Image.Image = frame.to_image()
    return image.rotate(getattr(frame, "rotation", 0), expand=True)
