"""Every multimodal model type has one verdict, and what is said of it tells what is nearest, missing and to do."""

import pytest

from vflowopt.discovery.known_models import (
    ADAPTERS_AWAY,
    CAPABILITIES_AWAY,
    NOT_THIS_METHOD,
    OFFICIAL_ADAPTERS,
    verdicts,
)
from vflowopt.discovery.refusals import refusal

LISTS = (OFFICIAL_ADAPTERS, ADAPTERS_AWAY, CAPABILITIES_AWAY, NOT_THIS_METHOD)
LINES = 3 * 120


def test_no_type_is_in_two_lists():
    kinds = [kind for known in LISTS for kind in known]
    assert len(kinds) == len(set(kinds)) == len(verdicts())
    assert list(verdicts()) == sorted(kinds)


@pytest.mark.parametrize("known", LISTS)
def test_lists_are_sorted(known):
    assert list(known) == sorted(known, key=lambda kind: (known[kind] if known is OFFICIAL_ADAPTERS else "", kind))


def test_the_nearest_type_is_supported():
    nearest = {kind: of.nearest for kind, of in verdicts().items() if of.nearest}
    assert set(nearest) == {*ADAPTERS_AWAY, *CAPABILITIES_AWAY}
    assert set(nearest.values()) <= set(OFFICIAL_ADAPTERS)


@pytest.mark.parametrize("kind", list(verdicts()))
def test_a_refusal_is_short_and_complete(kind):
    of, said = verdicts()[kind], refusal(kind, {"llava"})
    assert repr(kind) in said
    assert of.told in said
    assert len(f"UnsupportedModelError: {said}") <= LINES
    if of.nearest:
        assert repr(of.nearest) in said
        assert "docs/adapter-guide.md" in said


@pytest.mark.parametrize(
    ("kind", "claimed", "expected"),
    [
        ("qwen9_vl", {"llava", "qwen3_vl"}, "by name 'qwen3_vl' is the nearest"),
        ("x", {"llava"}, "by name 'llava' is the nearest"),
        ("qwen9_vl", set(), "as no adapter package is installed: pip install vflowopt-hf"),
    ],
)
def test_an_unknown_type(kind, claimed, expected):
    said = refusal(kind, claimed)
    assert f"no installed adapter supports model type {kind!r}" in said
    assert expected in said
    assert not claimed or "docs/adapter-guide.md" in said


def test_the_whole_omni_models_name_their_thinkers():
    assert "its thinker (qwen2_5_omni_thinker): model.thinker" in refusal("qwen2_5_omni", {"llava"})
