"""What this package registers with vflowopt: its models by name. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from vflowopt.adapter import Example, NamedModel
from vflowopt.errors import InputError
from vflowopt.hookspecs import hookimpl

from .names import path

_MODELS = (
    ("reference", "llava_onevision", "a really trained 4 M parameter LLaVA-OneVision: coloured shapes and digits"),
    ("reference-next", "llava_next", "the same for LLaVA-NeXT"),
    ("reference-qwen2vl", "qwen2_vl", "the same for Qwen2-VL (needs vflowopt-qwen)"),
    ("reference-dense", "qwen2_vl", "Qwen2-VL on crowds, charts and ledgers: harder questions (needs vflowopt-qwen)"),
    ("reference-qwen35", "qwen3_5", "the first questions for Qwen3.5, whose decoder is hybrid (needs vflowopt-qwen)"),
)


@hookimpl
def vflowopt_models() -> list[NamedModel]:
    """The shipped weights, their processors and their held-out questions."""
    return [
        NamedModel(
            name=name,
            summary=summary,
            model_type=model_type,
            path=partial(path, name),
            processor=partial(_processor, name),
            examples=partial(_examples, name),
            threads=1,  # its matrices are too small to share: waiting for a second thread costs more than it does
        )
        for name, model_type, summary in _MODELS
    ]


def _processor(name: str) -> Any:
    from . import load_processor

    return load_processor(path(name))


def _examples(name: str, split: str, count: int, seed: int) -> list[Example]:
    from .dataset import held_out

    if split not in ("search", "test", "validation"):
        raise InputError(f"the reference models have held-out examples for search, test and validation, not {split!r}")
    return [
        Example(images=(item.image,), question=item.question, answer=item.answer, kind=item.kind)
        for item in held_out(count, seed=seed, split=cast("Any", split), model=name)
    ]
