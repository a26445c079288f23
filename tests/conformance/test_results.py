"""What the kit tells of a case: counts, distances, what fails; and the command that prints it."""

from dataclasses import replace

import pytest
import torch

from support.cases.llava_onevision import CASE as ONEVISION
from vflowopt.errors import InputError
from vflowopt.testing import BoundCheck, Check, fail
from vflowopt_hf.testing.__main__ import main
from vflowopt_hf.testing.generation import generate
from vflowopt_hf.testing.results import HEADER, Result, cases_in, measure
from vflowopt_hf.testing.subject import Distance, Subject

FILE = """
from dataclasses import replace
from support.cases.llava_onevision import CASE
from vflowopt_hf.testing import conformance

@conformance(replace(CASE, name="mine"), only=("counts", "visual tokens", "image"), attention=("sdpa",))
def test_mine(check):
    check()

@conformance(replace(CASE, name="{other}"), only=("counts",), expected_failures={{"counts": "on purpose"}})
def test_other(check):
    check()
"""


@pytest.fixture
def file(tmp_path):
    """A file of tests, with a case whose check passes although it must fail."""
    path = tmp_path / "test_mine_and_other.py"
    path.write_text(FILE.format(other="other"))
    return path


def bound(subject, run, expected_failure=None):
    return BoundCheck(Check(run.__name__, run), subject, run.__name__, expected_failure)


def test_the_largest_distance_is_told_beside_upstreams_noise_for_the_same_prompts():
    subjects = [Subject(replace(ONEVISION, name="mine"), attention) for attention in ("eager", "sdpa")]
    batches = [subject.batch(subject.image(index)) for index, subject in enumerate(subjects)]

    def near(subject):
        subject.distances += [Distance(batches[0], 2e-6, 1e-5), Distance(batches[0], 0.0, 1e-5)]

    def farther(subject):
        subject.distances.append(Distance(batches[1], 1e-5, 4e-5))

    result = measure([bound(subjects[0], near), bound(subjects[1], farther)])
    assert (result.worst.batch, result.worst.found, result.worst.allowed) == (batches[1], 1e-5, 4e-5)
    inputs, model = batches[1].inputs, subjects[1].model
    output = generate(subjects[1], inputs, 20)
    text = {"input_ids": output.sequences, "attention_mask": torch.ones_like(output.sequences)}
    with torch.no_grad():
        full = model(**inputs | text, use_cache=False).logits[:, -21:-1]
    assert result.noise == pytest.approx(float((torch.stack(output.logits, dim=1) - full).abs().max()), abs=1e-8)
    assert result.cells[:7] == ("`mine`", "`llava_onevision`", "2", "2", "0", "1e-5", "5e-5")


@pytest.mark.parametrize(
    ("found", "told"),
    [(1e-6, "1e-6"), (1.01e-6, "2e-6"), (2.5e-6, "5e-6"), (5.1e-6, "1e-5"), (9.9e-7, "1e-6"), (0.0, "0")],
)
def test_distances_are_rounded_up(found, told):
    worst = Distance(None, found, 1e-5)
    assert Result("", "", 1, 0, (), worst, 0.002).cells[-3:] == (told, "1e-5", "2e-3")


def test_checks_that_fail_are_told_apart_from_those_that_must():
    def passes(subject):
        pass

    def fails(subject):
        """What it proves."""
        fail("in vain")

    def raises_nothing(subject):
        with pytest.raises(ValueError, match="never"):
            pass

    subject = Subject(ONEVISION, "sdpa")
    result = measure(
        [
            bound(subject, passes),
            bound(subject, passes, "mended"),
            bound(subject, fails),
            bound(subject, fails, "on purpose"),
            bound(subject, raises_nothing),
        ]
    )
    assert (result.passed, result.expected, result.worst, result.noise) == (1, 1, None, None)
    unexpected, failed, silent = result.failures
    assert unexpected == "passes passes, but must fail: mended"
    assert failed == "fails fails: ConformanceError: in vain\ncheck 'fails' proves: What it proves."
    assert silent.startswith("raises_nothing fails: Failed: DID NOT RAISE")
    assert result.cells == ("`llava-onevision`", "`llava_onevision`", "5", "1", "1", "none", "none", "none")


def test_the_command_prints_a_row_for_each_case_and_what_fails(file, capsys):
    assert main([str(file)]) == 1
    told = capsys.readouterr()
    header, _, mine, other = (line.strip("| ").split(" | ") for line in told.out.splitlines())
    assert tuple(header) == HEADER
    assert mine[:5] == ["`mine`", "`llava_onevision`", "3", "3", "0"]
    assert 0 < float(mine[5]) <= float(mine[6]) == 1e-5
    assert other == ["`other`", "`llava_onevision`", "1", "0", "0", "none", "none", "none"]
    assert told.err == "counts passes, but must fail: on purpose\n"


def test_cases_are_chosen_by_name(file, capsys):
    assert main([str(file), "mine"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(SystemExit):
        main([str(file), "mine", "typo"])
    assert capsys.readouterr().err.endswith("no cases are called typo; the cases are mine, other\n")


def test_two_cases_of_one_name_are_refused(tmp_path):
    file = tmp_path / "test_two_of_one_name.py"
    file.write_text(FILE.format(other="mine"))
    with pytest.raises(InputError, match=r"two cases of .* are called 'mine'; give one a name: Case\(name=...\)"):
        cases_in(file)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("test_nothing.py", "def test_nothing(): pass", "has no tests that @conformance"),
        ("notes.txt", "text", "is no Python file"),
        ("test_missing.py", None, "is no Python file"),
    ],
)
def test_files_without_such_tests_are_refused(tmp_path, capsys, name, text, says):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(file)])
    assert says in capsys.readouterr().err
