"""How the kit is used: ids, expected failures, and what it says without Hypothesis."""

import subprocess
import sys

import pytest

from support.cases.kimi_k25 import CASE as KIMI
from support.cases.kimi_k25 import TIME
from support.cases.llava_onevision import CASE as ONEVISION
from support.cases.qwen2_vl import CASE as QWEN
from vflowopt.errors import InputError
from vflowopt.testing import BoundCheck, Check, ConformanceError, as_tests, fail, require
from vflowopt_hf.testing import GEOMETRY, RUNTIME, conformance
from vflowopt_hf.testing.batches import Sample, noise
from vflowopt_hf.testing.subject import Subject


def positive(subject):
    """The subject is positive."""
    require(subject > 0, f"{subject} is not positive")


def always(subject):
    fail("never holds")


POSITIVE, NEVER = Check("positive", positive), Check("never", always)


def bound(*subjects):
    return [
        BoundCheck(check, subject, f"{check.name}-{subject}") for subject in subjects for check in (POSITIVE, NEVER)
    ]


@as_tests([BoundCheck(POSITIVE, 3, "positive-3"), BoundCheck(NEVER, 3, "never-3")], {"never": "on purpose"})
def test_checks_become_tests_and_expected_failures_are_expected(check):
    check()


def test_a_failed_check_says_what_it_proves():
    with pytest.raises(ConformanceError, match="-1 is not positive") as raised:
        bound(-1)[0]()
    assert raised.value.__notes__ == ["check 'positive' proves: The subject is positive."]


def test_expected_failures_are_strict_and_go_by_name_or_by_id():
    parameters = as_tests(bound(1, 2), {"never": "always wrong", "positive-2": "only here"}).args[1]
    marks = {parameter.id: [dict(mark.kwargs) for mark in parameter.marks] for parameter in parameters}
    assert marks == {
        "positive-1": [],
        "never-1": [{"reason": "always wrong", "strict": True}],
        "positive-2": [{"reason": "only here", "strict": True}],
        "never-2": [{"reason": "always wrong", "strict": True}],
    }


def test_an_expected_failure_of_no_check_is_refused():
    with pytest.raises(InputError, match="expected failures of no check: typo; the checks are never, positive"):
        as_tests(bound(1), {"typo": "..."})


def test_ids_name_check_family_and_attention_and_every_check_explains_itself():
    ids = [parameter.id for parameter in conformance(ONEVISION).args[1]]
    assert ids[:3] == ["counts", "visual tokens", "structural tokens"]
    assert {"ragged batch-eager", "ragged batch-sdpa", "video-sdpa"} < set(ids)
    assert "qwen2-vl-counts" in [parameter.id for parameter in conformance(ONEVISION, QWEN).args[1]]
    assert len(ids) == len(set(ids)) == len(GEOMETRY) + 2 * len(RUNTIME)
    assert all(check.run.__doc__ for check in (*GEOMETRY, *RUNTIME))


def test_some_checks_only():
    ids = [parameter.id for parameter in conformance(ONEVISION, only=("counts", "image"), attention=("sdpa",)).args[1]]
    assert ids == ["counts", "image-sdpa"]
    with pytest.raises(InputError, match="no checks are called typo; the checks are counts, "):
        conformance(ONEVISION, only=("counts", "typo"))


def test_parts_that_are_units_are_placed_one_by_one():
    """Two chunks of two frames: two units, each with a time of its own before it."""
    batch = Subject(KIMI, "sdpa").batch(Sample((noise((4, 24, 36), seed=1),)))
    assert [entry.unit.layout.tokens for entry in batch.placed] == [6, 6]
    assert [int(batch.inputs["input_ids"][0, entry.rows[0] - 1]) for entry in batch.placed] == [TIME, TIME]


@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_what_to_install_is_said(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import vflowopt.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith(
        "vflowopt.testing needs hypothesis and pytest: pip install 'vflowopt-core[testing]'"
    )
