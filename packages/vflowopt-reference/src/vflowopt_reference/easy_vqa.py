"""Questions that were not made here: ``python -m vflowopt_reference.easy_vqa --out FILE``.

Writes questions of easy-VQA (MIT, ``pip install easy-vqa``) as ``vflowopt evaluate --data`` reads them; its pictures
stay where they are installed. They show one flat shape on a pale ground, 64 x 64 pixels: nothing like what the models
were trained on.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .names import NAMES
from .tasks import TASKS
from .vocabulary import COLORS, SHAPES

CHOICES: Final = ("trained", "known", "all")
"""Questions in a wording that models were trained on; in words that the model knows; any."""

_TRAINED: Final = re.compile(rf"what color is the ({'|'.join(SHAPES)})\?")


def chosen(
    asked: Sequence[tuple[str, str, int]], choice: str, vocabulary: Mapping[str, int]
) -> Iterator[tuple[str, str, int]]:
    """Those of the questions (text, answer, number of the picture) that a choice leaves."""
    for text, answer, picture in asked:
        known = {*re.findall(r"\w+|[^\w\s]", text), answer} <= vocabulary.keys()
        trained = _TRAINED.fullmatch(text) is not None and answer in COLORS
        if {"all": True, "known": known, "trained": trained}[choice]:
            yield text, answer, picture


def lines(package: Any, choice: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Lines of JSON for the test questions of the installed package."""
    pictures = package.get_test_image_paths()
    asked = list(zip(*package.get_test_questions(), strict=True))
    return [
        json.dumps({"image": str(pictures[picture]), "question": text, "answers": [answer]})
        for text, answer, picture in chosen(asked, choice, vocabulary)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.easy_vqa",
        description="Write the test questions of the installed easy-vqa as JSONL for vflowopt evaluate --data.",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--questions", choices=CHOICES, default="trained", help="which ones (default trained)")
    parser.add_argument("--model", choices=NAMES, default=NAMES[0], help=f"whose words count (default {NAMES[0]})")
    options = parser.parse_args(arguments)
    try:
        import easy_vqa
    except ImportError:
        parser.error("easy-vqa is not installed; pip install easy-vqa")
    found = lines(easy_vqa, options.questions, TASKS[options.model].vocabulary)
    options.out.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    print(f"{len(found)} questions in {options.out}")


if __name__ == "__main__":
    main()
