"""Sets of samples to search on, for ``vflowopt ablate``: disjoint parts, other files, one kind of question only."""

from collections.abc import Callable, Sequence

from vflowopt.adapter import Example
from vflowopt.cli.data import Question

Draw = Callable[[str, int, int], list[Example]]

KINDS_SEED = 1000
"""Seed of the named model's own examples that are sorted by kind: no other set has it."""

POOL = 10
"""Times as many are drawn as one kind needs."""


def own_sets(draw: Draw, samples: int, most: int, sets: int) -> dict[str, list[Question]]:
    """Sets of a named model's own search split: one per seed, then one of every kind of question that it has.

    Args:
        draw: the model's examples, see :class:`vflowopt.adapter.NamedModel`.
        samples: per set.
        most: of the first set, which is searched with several numbers of samples.
        sets: how many seeds; with 1 there are no other sets.
    """
    found = {f"set {seed}": _asked(draw("search", samples if seed else most, seed)) for seed in range(sets)}
    by_kind: dict[str, list[Example]] = {}
    for example in draw("search", POOL * samples, KINDS_SEED) if sets > 1 else ():
        by_kind.setdefault(example.kind, []).append(example)
    enough = {kind: own for kind, own in sorted(by_kind.items()) if len(own) >= samples}
    return found | {f"only {kind}": _asked(own[:samples]) for kind, own in enough.items() if len(by_kind) > 1}


def file_sets(files: Sequence[list[Question]], samples: int, sets: int) -> dict[str, list[Question]]:
    """One set per file; of a single file disjoint parts, as many as it fills.

    Args:
        files: their questions.
        samples: per part of a single file.
        sets: how many parts at most.
    """
    if len(files) > 1:
        return {f"set {number}": own for number, own in enumerate(files)}
    (own,) = files
    parts = min(sets, max(1, len(own) // samples))
    return {"set 0": own} | {f"set {part}": own[part * samples : (part + 1) * samples] for part in range(1, parts)}


def _asked(examples: Sequence[Example]) -> list[Question]:
    return [Question(example.images, example.question, (example.answer,)) for example in examples]
