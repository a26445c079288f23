"""Write a named model's held-out questions to files: images, and a JSONL that lmms-eval and vflowopt both read."""

import argparse
import json
from pathlib import Path

from vflowopt.plugins import installed


def main() -> None:
    """Write ``data/questions.jsonl`` and ``data/*.png`` below this file's directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference", help="a named model with examples of its own")
    parser.add_argument("--count", type=int, default=200, help="how many questions")
    options = parser.parse_args()
    examples = installed().models[options.model].examples
    if examples is None:
        parser.error(f"{options.model} brings no questions of its own")
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    lines = []
    for index, example in enumerate(examples("test", options.count, 0)):
        (image,) = example.images
        image.save(folder / f"{index:04d}.png")
        lines.append({"image": f"{index:04d}.png", "question": example.question, "answers": [example.answer]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
