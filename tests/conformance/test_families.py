"""Every built-in family passes the conformance kit; its further model types pass what depends on the model."""

import importlib
from dataclasses import replace

import pytest
import transformers

from support.cases import NAMES, OF_EVERY_KIND, SAME_DECODER, SINCE
from vflowopt_hf.testing import RUNTIME, conformance
from vflowopt_hf.upstream import TESTED, installed

MODULES = {name: importlib.import_module(f"support.cases.{name}") for name in NAMES}


FAMILIES = conformance(
    *(replace(module.CASE, name=name) for name, module in MODULES.items()),
    expected_failures={
        f"{name}-{check}": reason
        for name, module in MODULES.items()
        for check, reason in getattr(module, "UPSTREAM_FAULTS", {}).items()
    },
)


OF_EVERY_FAMILY = {"image", "identity"}
"""Checks of pruned forwards that every family goes through here."""
OF_EAGER_ATTENTION = {"ragged batch", "mass", "identity"}
"""Checks in which eager attention gets other masks than sdpa does."""


def is_elsewhere(check):
    """What an attention, or a kind of decoder, decides is shown by one; `make test-newest` and CI run all."""
    if check.check not in RUNTIME:
        return False
    name, is_eager = check.check.name, check.subject.attention == "eager"
    if check.subject.case.name not in OF_EVERY_KIND:
        return is_eager or name not in OF_EVERY_FAMILY
    return is_eager and name not in OF_EAGER_ATTENTION


def marked(tests, is_slow):
    """The same tests, some of them slow."""
    return [
        pytest.param(check, id=test.id, marks=[*test.marks, *[pytest.mark.slow] * is_slow(check)])
        for test in tests.args[1]
        for check in test.values
    ]


@pytest.mark.parametrize("check", marked(FAMILIES, is_elsewhere))
def test_family(check):
    check()


@pytest.mark.parametrize(("name", "other"), SAME_DECODER.items())
def test_the_decoder_is_another_familys(name, other):
    one, two = (MODULES[each].CASE for each in (name, other))
    assert other not in SAME_DECODER
    assert type(one.family.decoder(one.model("eager"))) is type(two.family.decoder(two.model("eager")))


SIBLINGS = conformance(
    *(sibling for module in MODULES.values() for sibling in getattr(module, "SIBLINGS", ())),
    only=("counts", "map alignment", "observed layer", "video", "ragged batch", "identity"),
    attention=("sdpa",),
)


@pytest.mark.parametrize("check", marked(SIBLINGS, lambda check: check.check.name in ("video", "identity")))
def test_sibling(check):
    check()


@pytest.mark.parametrize(("name", "since"), SINCE.items())
def test_a_case_is_left_out_only_on_releases_before_its_first(name, since):
    assert TESTED[0] < since <= TESTED[-1]
    assert (name in MODULES) == (installed() >= since)
    if name not in MODULES:
        first = ".".join(map(str, since))
        pytest.skip(f"{name} needs transformers {first} or newer, and {transformers.__version__} is installed")
