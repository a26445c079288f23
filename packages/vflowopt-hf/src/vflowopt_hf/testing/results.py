"""What the kit finds of a case, as a row of a table: checks that pass, and distances from the oracle."""

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from vflowopt.errors import InputError
from vflowopt.testing import BoundCheck, checks_of
from vflowopt_hf.testing.generation import upstream_noise
from vflowopt_hf.testing.subject import Distance, Subject

HEADER = ("case", "model type", "checks", "passed", "failed as expected", "distance", "tolerance", "upstream's noise")


@dataclass(frozen=True)
class Result:
    """What became of the checks of a case.

    Attributes:
        name: of the case.
        model_type: of its tiny model.
        passed: how many checks passed.
        expected: how many failed that must fail.
        failures: what the others say.
        worst: the largest distance from the oracle, and what was allowed there; None if no check measures any.
        noise: for the prompts of ``worst``, how far the unpruned model is from its own full-length forward.
    """

    name: str
    model_type: str
    passed: int
    expected: int
    failures: tuple[str, ...]
    worst: Distance | None
    noise: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """A row under :data:`HEADER`; distances are rounded up to 1, 2 or 5 times a power of ten, as digits vary."""
        counts = (self.passed + self.expected + len(self.failures), self.passed, self.expected)
        worst = (self.worst.found, self.worst.allowed) if self.worst else (None, None)
        return (f"`{self.name}`", f"`{self.model_type}`", *map(str, counts), *map(_rounded_up, (*worst, self.noise)))


def cases_in(file: Path) -> dict[str, list[BoundCheck]]:
    """The checks of each case that the functions of a file of tests are decorated with, by the case's name.

    Raises:
        InputError: there is no such file, no such test in it, or two cases have one name.
    """
    spec = importlib.util.spec_from_file_location(file.stem, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file; name one with tests that @conformance(...) decorates")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: dict[str, list[BoundCheck]] = {}
    functions = filter(inspect.isfunction, vars(module).values())
    for check in (check for test in functions for check in checks_of(test)):
        if isinstance(check.subject, Subject):
            case = check.subject.case
            own = found.setdefault(case.label, [])
            if own and own[0].subject.case is not case:
                raise InputError(f"two cases of {file} are called {case.label!r}; give one a name: Case(name=...)")
            own.append(check)
    if not found:
        raise InputError(f"{file} has no tests that @conformance(...) decorates")
    return found


def chosen(cases: Mapping[str, list[BoundCheck]], names: Sequence[str]) -> dict[str, list[BoundCheck]]:
    """Some of the cases, or all if no names are given.

    Raises:
        InputError: no case has such a name.
    """
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise InputError(f"no cases are called {', '.join(unknown)}; the cases are {', '.join(cases)}")
    return {name: cases[name] for name in names or cases}


def measure(checks: Sequence[BoundCheck]) -> Result:
    """Run the checks of one case."""
    subjects: list[Subject] = list(dict.fromkeys(check.subject for check in checks))
    passed, expected, failures = 0, 0, []
    for check in checks:
        error = _error(check)
        if error is None and check.expected_failure is None:
            passed += 1
        elif error is None:
            failures.append(f"{check.id} passes, but must fail: {check.expected_failure}")
        elif check.expected_failure is not None:
            expected += 1
        else:
            notes = getattr(error, "__notes__", [])
            failures.append("\n".join([f"{check.id} fails: {type(error).__name__}: {error}", *notes]))
    distances = [(distance, subject) for subject in subjects for distance in subject.distances]
    worst, subject = max(distances, key=lambda pair: pair[0].found, default=(None, subjects[0]))
    return Result(
        name=subject.case.label,
        model_type=str(subject.model.config.model_type),
        passed=passed,
        expected=expected,
        failures=tuple(failures),
        worst=worst,
        noise=None if worst is None else upstream_noise(subject, worst.batch),
    )


def _error(check: BoundCheck) -> BaseException | None:
    """What a check raises, ``pytest.raises`` in it included."""
    try:
        check()
    except (Exception, pytest.fail.Exception) as error:
        return error
    return None


def _rounded_up(value: float | None) -> str:
    if not value:
        return "none" if value is None else "0"
    exponent = Decimal(value).adjusted()
    steps = (f"1e{exponent}", f"2e{exponent}", f"5e{exponent}", f"1e{exponent + 1}")
    return next(step for step in steps if value <= float(step))
