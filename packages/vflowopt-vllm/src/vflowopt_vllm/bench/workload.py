"""What is asked: images and text drawn from a seed, the same for every server and new in every round."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

WORDS = ("the", "red", "cup", "on", "a", "table", "near", "two", "small", "birds", "and", "one", "old", "tree", "with")
"""Of which questions are made; most tokenizers have each as one token."""

BLOCK = 28
"""Side of a block of one colour in an image, in pixels."""


@dataclass(frozen=True)
class Workload:
    """What the clients do in a round.

    Attributes:
        clients: how many ask at the same time, each one request after the other.
        requests: of all clients together.
        size: width and height of the one image of each request, in pixels.
        words: of the text after it.
        max_tokens: that each answer has; the end of a text does not end it.
        seed: of images and text.
    """

    clients: int = 16
    requests: int = 32
    size: tuple[int, int] = (1260, 1260)
    words: int = 32
    max_tokens: int = 16
    seed: int = 0

    def messages(self, turn: int) -> list[list[dict[str, Any]]]:
        """The conversations of a round, for the chat completions of an OpenAI client.

        No two images of a benchmark are alike, so that no server finds anything of one in a cache.

        Args:
            turn: number of the round.
        """
        return [self._message(np.random.default_rng((self.seed, turn, number))) for number in range(self.requests)]

    def _message(self, random: np.random.Generator) -> list[dict[str, Any]]:
        image = {"type": "image_url", "image_url": {"url": _url(self._picture(random))}}
        text = {"type": "text", "text": " ".join(random.choice(WORDS, self.words))}
        return [{"role": "user", "content": [image, text]}]

    def _picture(self, random: np.random.Generator) -> Image.Image:
        width, height = self.size
        blocks = random.integers(0, 256, (-(-height // BLOCK), -(-width // BLOCK), 3), dtype=np.uint8)
        return Image.fromarray(blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width])


def _url(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
