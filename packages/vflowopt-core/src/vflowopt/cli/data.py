"""Questions about images: from a JSONL file, a directory of images, or a named model's own examples."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vflowopt.adapter import Inputs, LoadedModel
from vflowopt.cli.models import Chosen
from vflowopt.errors import InputError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DEFAULT_PROMPT = "Describe the image."


@dataclass(frozen=True)
class Question:
    """A question about images, with the answers that count as right.

    Attributes:
        sources: PIL images, or paths that are read when needed.
        text: the question.
        answers: accepted answers; empty if unknown.
    """

    sources: tuple[Any, ...]
    text: str
    answers: tuple[str, ...] = ()

    def images(self) -> list[Image.Image]:
        """The images, RGB."""
        return [open_image(source) if isinstance(source, Path) else source for source in self.sources]

    def prepare(self, loaded: LoadedModel) -> Inputs:
        """Model inputs of batch size 1."""
        return loaded.prepare(self.images(), self.text)


def open_image(path: Path) -> Image.Image:
    """Read an image file as RGB.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error}") from error


def gather(
    chosen: Chosen, data: Path | None, images: Path | None, prompt: str | None, split: str, count: int
) -> list[Question]:
    """The questions that a command's options mean.

    Raises:
        InputError: none of the sources is given, or it holds nothing usable.
    """
    if data and images:
        raise InputError("give --data or --images, not both")
    if data:
        return read_jsonl(data)[:count]
    if images:
        return read_directory(images, prompt or DEFAULT_PROMPT)[:count]
    if chosen.named and chosen.named.examples:
        examples = chosen.named.examples(split, count, 0)
        return [Question(example.images, example.question, (example.answer,)) for example in examples]
    raise InputError(f"{chosen.label!r} brings no examples of its own: give --data FILE.jsonl or --images DIR")


def read_directory(directory: Path, prompt: str) -> list[Question]:
    """One question per image file, in order of name.

    Raises:
        InputError: no such directory, or no images in it.
    """
    if not directory.is_dir():
        raise InputError(f"there is no directory {str(directory)!r}")
    files = sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"the sample set is empty: no images ({', '.join(sorted(SUFFIXES))}) in {str(directory)!r}")
    for path in files:
        _check_header(path)
    return [Question((path,), prompt) for path in files]


def read_jsonl(file: Path) -> list[Question]:
    """Questions from lines ``{"image": path or [paths], "question": ..., "answers": [...]}``.

    Paths are relative to the file.

    Raises:
        InputError: unreadable, empty, or a malformed line, which is named.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(file)!r}: {error}") from error
    questions = [_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"the sample set is empty: {str(file)!r} holds no lines")
    return questions


def _line(file: Path, number: int, line: str) -> Question:
    where = f"{str(file)!r}, line {number}"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, Mapping) or "image" not in entry or not isinstance(entry.get("question"), str):
        raise InputError(f'{where}: expected {{"image": path or [paths], "question": text, "answers": [texts]}}')
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    answers = entry.get("answers", [entry["answer"]] if "answer" in entry else [])
    if not images or not all(isinstance(text, str) for text in (*images, *answers)):
        raise InputError(f"{where}: image paths and answers must be text, and there must be an image")
    paths = tuple(file.parent / image for image in images)
    for path in paths:
        _check_header(path)
    return Question(paths, entry["question"], tuple(answers))


def _check_header(path: Path) -> None:
    """Fail on an unreadable image before any work is done; decodes nothing."""
    try:
        with Image.open(path):
            pass
    except (OSError, ValueError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"cannot read the image {str(path)!r}: {error}") from error
