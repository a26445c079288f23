"""Checks, and the one way to turn a set of them into ordinary parametrised pytest tests.

A check is a plain function of its subject, so that third parties run it without inheriting from anything; one that
needs Hypothesis builds its own ``@given`` inside.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pytest

from vflowopt.errors import InputError


class ConformanceError(AssertionError):
    """What a check proves does not hold; says what was done wrong, and how to put it right."""


def fail(message: str, cause: BaseException | None = None) -> NoReturn:
    """End a check.

    Raises:
        ConformanceError: always.
    """
    raise ConformanceError(message) from cause


def require(condition: object, message: str) -> None:
    """End a check unless a condition holds.

    Raises:
        ConformanceError: it does not.
    """
    if not condition:
        fail(message)


@dataclass(frozen=True)
class Check:
    """One thing to prove of any subject.

    Attributes:
        name: a few words; part of the test's id and key of expected failures.
        run: takes the subject, raises :class:`ConformanceError` with an explanation.
        applies: whether the check has anything to prove of a subject.
    """

    name: str
    run: Callable[[Any], None]
    applies: Callable[[Any], bool] = lambda _: True

    @property
    def proves(self) -> str:
        """What holds if the check passes: the function's docstring."""
        return inspect.getdoc(self.run) or self.name


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """A check with its subject: what a test decorated by a conformance kit receives, to call it.

    Attributes:
        check: what to prove.
        subject: of what.
        id: the test's id, unique in its set.
        expected_failure: why it must fail, if it must.
    """

    check: Check
    subject: Any
    id: str
    expected_failure: str | None = None

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceError: it fails; carries what the check proves.
        """
        try:
            self.check.run(self.subject)
        except ConformanceError as error:
            error.add_note(f"check {self.check.name!r} proves: {self.check.proves}")
            raise


def as_tests(checks: Iterable[BoundCheck], expected_failures: Mapping[str, str] | None = None) -> pytest.MarkDecorator:
    """A decorator for ``def test_...(check): check()`` that makes one test of each check.

    Args:
        checks: what to run.
        expected_failures: reason by name of a check, or by id of a single test. Such a test must fail.

    Raises:
        InputError: an expected failure names no check.
    """
    bound, reasons = list(checks), dict(expected_failures or {})
    known = {entry.check.name for entry in bound} | {entry.id for entry in bound}
    unknown = sorted(reasons.keys() - known)
    if unknown:
        names = sorted({entry.check.name for entry in bound})
        raise InputError(f"expected failures of no check: {', '.join(unknown)}; the checks are {', '.join(names)}")
    parameters = []
    for entry in bound:
        reason = reasons.get(entry.id, reasons.get(entry.check.name))
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        parameters.append(pytest.param(replace(entry, expected_failure=reason), id=entry.id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def checks_of(test: Callable[..., object]) -> list[BoundCheck]:
    """What :func:`as_tests` made tests of a function with; nothing if it did not decorate it."""
    parameters = [parameter for mark in getattr(test, "pytestmark", ()) for parameter in _parameters(mark)]
    return [value for parameter in parameters for value in parameter.values if isinstance(value, BoundCheck)]


def _parameters(mark: pytest.Mark) -> list[Any]:
    """Those of a mark that :func:`as_tests` made."""
    return mark.args[1] if mark.name == "parametrize" and mark.args[0] == "check" else []
