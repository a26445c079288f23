"""What this package registers with vflowopt: the model ``reference``. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from vflowopt.adapter import Example, NamedModel
from vflowopt.errors import InputError
from vflowopt.hookspecs import hookimpl


@hookimpl
def vflowopt_models() -> list[NamedModel]:
    """The shipped weights, their processor and their held-out questions."""
    return [
        NamedModel(
            name="reference",
            summary="a really trained 4 M parameter LLaVA-OneVision that reads coloured shapes and digits",
            model_type="llava_onevision",
            path=_path,
            processor=_processor,
            examples=_examples,
            threads=1,  # its matrices are too small to share: waiting for a second thread costs more than it does
        )
    ]


def _path() -> Path:
    from . import path

    return path()


def _processor() -> Any:
    from . import load_processor

    return load_processor()


def _examples(split: str, count: int, seed: int) -> list[Example]:
    from .dataset import held_out

    if split not in ("search", "test", "validation"):
        raise InputError(f"the reference model has held-out examples for search, test and validation, not {split!r}")
    return [
        Example(images=(item.image,), question=item.question, answer=item.answer, kind=item.kind)
        for item in held_out(count, seed=seed, split=cast("Any", split))
    ]
