"""All checks of a family, and the decorator that runs them as ordinary tests."""

from collections.abc import Collection, Mapping, Sequence

import pytest

from vflowopt.errors import InputError
from vflowopt.testing import BoundCheck, Check, as_tests
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.checks import (
    alignment,
    coordinates,
    generating,
    observed,
    plans,
    pruning,
    restoring,
    tokens,
)
from vflowopt_hf.testing.subject import Subject


def _several(subject: Subject) -> bool:
    return subject.case.several_images


def _video(subject: Subject) -> bool:
    return subject.case.video is not None


GEOMETRY = (
    Check("counts", tokens.counts),
    Check("visual tokens", tokens.visual_tokens),
    Check("structural tokens", alignment.structural_tokens),
    Check("patches", alignment.patches),
    Check("map alignment", alignment.map_alignment),
    Check("entropy alignment", alignment.entropy_alignment),
    Check("coordinates", coordinates.coordinates),
    Check("observed layer", observed.observed_layer),
    Check("attention weights", observed.attention_weights),
    Check("plans", plans.plans),
    Check("KV cache", pruning.kv_cache),
)
"""What does not depend on the attention implementation; proved once."""

RUNTIME = (
    Check("image", pruning.image),
    Check("several images", pruning.several_images, _several),
    Check("video", pruning.video, _video),
    Check("ragged batch", pruning.ragged_batch),
    Check("mass", pruning.mass),
    Check("separators", pruning.separators),
    Check("identity", pruning.identity),
    Check("batch invariance", pruning.batch_invariance),
    Check("beam search", generating.beam_search),
    Check("sampling", generating.sampling),
    Check("conversation", generating.conversation),
    Check("drafts", generating.drafts),
    Check("outside the block", generating.outside_the_block),
    Check("clean exit", restoring.clean_exit),
)
"""What the attention implementation takes part in."""


def conformance(
    *cases: Case,
    expected_failures: Mapping[str, str] | None = None,
    attention: Sequence[str] = ("eager", "sdpa"),
    only: Collection[str] | None = None,
) -> pytest.MarkDecorator:
    """Prove a family right: one test per check, in the order from simple to composed.

    ::

        @conformance(Case(family=MyFamily(), ...))
        def test_my_family(check):
            check()

    Args:
        cases: families with tiny random models.
        expected_failures: reason by name of a check, or by id of a single test; such a test must fail.
        attention: implementations to run the model with.
        only: names of the checks to make, by default all; for a second model type of a family that passes all.

    Raises:
        InputError: an expected failure or ``only`` names no check.
    """
    known = [check.name for check in (*GEOMETRY, *RUNTIME)]
    unknown = sorted(set(only or ()) - set(known))
    if unknown:
        raise InputError(f"no checks are called {', '.join(unknown)}; the checks are {', '.join(known)}")
    bound = []
    for case in cases:
        prefix = f"{case.label}-" if len(cases) > 1 else ""
        for number, implementation in enumerate(attention):
            subject = Subject(case, implementation)
            for check in (*GEOMETRY, *RUNTIME) if number == 0 else RUNTIME:
                name = check.name if check in GEOMETRY else f"{check.name}-{implementation}"
                if check.applies(subject) and (only is None or check.name in only):
                    bound.append(BoundCheck(check, subject, f"{prefix}{name}"))
    return as_tests(bound, expected_failures)
