"""A task's chat messages as a question that a checkpoint can be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vflowopt.cli.data import Question
from vflowopt.errors import InputError
from vflowopt.files.images import upright
from vflowopt.files.video import open_video


@dataclass(frozen=True)
class Turn:
    """One user message, taken apart.

    Attributes:
        question: its images, videos and text, in the order that every model is asked in: images, videos, text.
        reordered: whether the message had them in another order.
    """

    question: Question
    reordered: bool


def read_messages(messages: Any, frames: int) -> Turn:
    """Read what ``doc_to_messages`` of a task gives.

    Args:
        messages: one user message; its content is a text, or a list of ``{"type": "text", "text": ...}`` and
            ``{"type": "image" or "video", "url": ...}`` with a PIL image or a path.
        frames: frames of a video to use at most, evenly spaced.

    Raises:
        InputError: several messages, a system prompt, audio, an excerpt of a video, or media that cannot be read.
    """
    roles = [message["role"] for message in messages]
    if roles != ["user"]:
        raise InputError(
            f"the task sends messages of {', '.join(roles) or 'nobody'}; the vflowopt model answers one message of "
            f"the user: choose a task without conversation and without system prompt"
        )
    content = messages[0]["content"]
    parts: Sequence[Mapping[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    kinds = [part["type"] for part in parts]
    unknown = sorted(set(kinds) - set(ORDER))
    if unknown:
        raise InputError(f"the task sends {', '.join(unknown)}; the vflowopt model takes {', '.join(ORDER)}")
    question = Question(
        sources=tuple(_image(part["url"]) for part in parts if part["type"] == "image"),
        text="\n".join(part["text"] for part in parts if part["type"] == "text"),
        videos=tuple(open_video(_video_path(part)) for part in parts if part["type"] == "video"),
        frames=frames,
    )
    return Turn(question, reordered=kinds != sorted(kinds, key=ORDER.index))


ORDER = ("image", "video", "text")
"""What a message may hold, in the order of :meth:`vflowopt.adapter.LoadedModel.prepare`."""


def _image(source: Any) -> Image.Image | Path:
    if isinstance(source, Image.Image):
        return upright(source)
    if isinstance(source, (str, Path)):
        return Path(source)
    raise InputError(f"the task gives an image as {type(source).__name__}; expected a PIL image or a path")


def _video_path(part: Mapping[str, Any]) -> Path:
    source = part["url"]
    excerpt = part.get("start_time") is not None or part.get("end_time") is not None
    if excerpt or not isinstance(source, (str, Path)):
        given = "an excerpt of a video" if excerpt else f"a video as {type(source).__name__}"
        raise InputError(f"the task gives {given}; the vflowopt model takes paths of whole videos")
    return Path(source)
