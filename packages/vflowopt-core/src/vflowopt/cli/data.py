"""Questions about images and videos: from options, a JSONL file, a directory, or a named model's own examples."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from vflowopt.adapter import Inputs, LoadedModel
from vflowopt.cli.console import working
from vflowopt.cli.media import FRAMES, check_image, open_image
from vflowopt.cli.models import Chosen
from vflowopt.errors import InputError
from vflowopt.files.images import IMAGE_SUFFIXES, image_files
from vflowopt.files.video import Clip, Video, open_video

DEFAULT_PROMPT = {"image": "Describe the image.", "video": "Describe the video."}
LINE = '{"image": path or [paths], "video": path or [paths], "question": text, "answers": [texts]}'


SampleImagesOption = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Directory of sample images.")]
PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", metavar="TEXT", help="Question asked about every image of --images and every --video."),
]
SampleDataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="JSONL of image or video, question, answers (answers are not used)."),
]


@dataclass(frozen=True)
class Question:
    """A question about images and videos, with the answers that count as right.

    Attributes:
        sources: PIL images, or paths that are read when needed.
        text: the question.
        answers: accepted answers; empty if unknown.
        videos: opened videos, read when needed; they follow the images in the prompt.
        frames: how many frames of each to use at most.
        origin: where it is from, such as a line of a file; for messages.
    """

    sources: tuple[Any, ...]
    text: str
    answers: tuple[str, ...] = ()
    videos: tuple[Video, ...] = ()
    frames: int = FRAMES
    origin: str = ""

    def images(self) -> list[Image.Image]:
        """The images, RGB."""
        return [open_image(source) if isinstance(source, Path) else source for source in self.sources]

    def clips(self) -> list[Clip]:
        """The videos' frames, RGB."""
        return [video.sample(self.frames) for video in self.videos]

    def media(self) -> list[Image.Image | Clip]:
        """Images and videos in prompt order."""
        return [*self.images(), *self.clips()]

    def read(self) -> "Question":
        """The same question with images and frames in memory, so that they are decoded once."""
        clips = zip(self.videos, self.clips(), strict=True)
        videos = tuple(Video(video.path, len(clip), _from(clip)) for video, clip in clips)
        return replace(self, sources=tuple(self.images()), videos=videos)

    def prepare(self, loaded: LoadedModel) -> Inputs:
        """Model inputs of batch size 1.

        Raises:
            InputError: an image or video cannot be read, or the processor refuses them; names the question's origin.
        """
        try:
            return loaded.prepare(self.images(), self.text, self.clips())
        except InputError as error:
            if not self.origin:
                raise
            raise InputError(f"{self.origin}: {error}") from error


def ask(images: Sequence[Path] | None, videos: Sequence[Path] | None, frames: int, prompt: str) -> Question:
    """The one question of a command's options, read.

    Raises:
        InputError: neither images nor videos are given, or one cannot be read.
    """
    if not images and not videos:
        raise InputError("give what the question is about: --image or --video")
    return Question(tuple(images or ()), prompt, (), tuple(map(open_video, videos or ())), frames).read()


def gather(
    chosen: Chosen,
    *,
    data: Path | None,
    split: str,
    count: int,
    images: Path | None = None,
    videos: Sequence[Path] | None = None,
    frames: int = FRAMES,
    prompt: str | None = None,
) -> list[Question]:
    """The questions that a command's options mean.

    Raises:
        InputError: none of the sources is given, or it holds nothing usable.
    """
    if data and (images or videos):
        raise InputError("give --data or --images and --video, not both")
    if data:
        return read_jsonl(data, frames)[:count]
    if images or videos:
        found = read_directory(images, prompt or DEFAULT_PROMPT["image"]) if images else []
        text = prompt or DEFAULT_PROMPT["video"]
        found += [
            Question((), text, videos=(open_video(path),), frames=frames, origin=repr(str(path)))
            for path in videos or ()
        ]
        return found[:count]
    if chosen.named and chosen.named.examples:
        with working(f"drawing questions of {chosen.label}"):
            examples = chosen.named.examples(split, count, 0)
        return [
            Question(example.images, example.question, (example.answer,), origin=f"example {number}")
            for number, example in enumerate(examples, 1)
        ]
    raise InputError(
        f"{chosen.label!r} brings no examples of its own: give --data FILE.jsonl, or the images or videos to use"
    )


def read_directory(directory: Path, prompt: str) -> list[Question]:
    """One question per image file, in order of name.

    Raises:
        InputError: no such directory, or no images in it.
    """
    try:
        files = sorted(image_files(directory))
    except (OSError, ValueError) as error:  # ValueError: a name that no system takes
        raise InputError(f"there is no directory {str(directory)!r} of images: {error}") from error
    if not files:
        raise InputError(
            f"the sample set is empty: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {str(directory)!r}; "
            "name another directory"
        )
    for path in files:
        check_image(path)
    return [Question((path,), prompt, origin=repr(str(path))) for path in files]


def read_jsonl(file: Path, frames: int = FRAMES) -> list[Question]:
    """Questions from lines ``{"image": path or [paths], "video": path or [paths], "question": ..., "answers": [...]}``.

    Paths are relative to the file, or absolute. A line has images, videos or both; ``null`` is as good as left out. The
    file may begin with a byte order mark, and have empty lines.

    Args:
        file: the JSONL file.
        frames: how many frames of a video to use at most.

    Raises:
        InputError: unreadable, empty, or a malformed line, which is named.
    """
    try:
        data = file.read_bytes()
        # Not splitlines(): JSON may hold U+2028, U+0085 and other ends of lines inside its strings.
        lines = re.split("\r\n?|\n", data.decode(json.detect_encoding(data)))
    except (OSError, ValueError) as error:
        remedy = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "name a JSONL file"
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {str(file)!r}: {reason}; {remedy}") from error
    questions = [_line(file, number, line, frames) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise InputError(f"the sample set is empty: {str(file)!r} holds no lines; expected lines {LINE}")
    return questions


def _line(file: Path, number: int, line: str, frames: int) -> Question:
    where = f"{str(file)!r}, line {number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}; expected {LINE}") from error
    if not isinstance(entry, Mapping) or not isinstance(entry.get("question"), str):
        raise InputError(f"{where}: expected {LINE}, with an image or a video")
    images, videos = _listed(entry, "image"), _listed(entry, "video")
    answers = entry.get("answers")
    answers = _listed(entry, "answer") if answers is None else answers
    texts = [*images, *videos, *answers] if isinstance(answers, list) else [None]
    if not (images or videos) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: expected {LINE}, with an image or a video")
    paths = tuple(file.parent / image for image in images)
    try:
        for path in paths:
            check_image(path)
        opened = tuple(open_video(file.parent / video) for video in videos)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Question(paths, entry["question"], tuple(answers), opened, frames, where)


def _listed(entry: Mapping[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    return [] if value is None else value if isinstance(value, list) else [value]


def _from(clip: Clip) -> Callable[[Sequence[int]], Clip]:
    return lambda indices: [clip[index] for index in indices]
