"""The table of conformance has a row for every case and every model type, and as many checks as the kit has for it."""

import importlib
import runpy

import pytest

from docs.pages import REPOSITORY, read

pytest.importorskip("vflowopt_qwen")

from vflowopt_hf.testing.results import HEADER, cases_in
from vflowopt_hf.upstream import TESTED, installed

if installed() != TESTED[-1]:
    pytest.skip("the table is of the newest transformers", allow_module_level=True)

MADE = runpy.run_path(str(REPOSITORY / ".ci" / "conformance.py"))
CASES = cases_in(MADE["TESTS"])
ROWS = {
    name: dict(zip(HEADER, line.strip("| ").split(" | "), strict=True))
    for name, line in MADE["rows"](read("conformance.md")).items()
}


def test_every_case_has_a_row_and_no_other():
    assert list(ROWS) == list(CASES), "make conformance"


@pytest.mark.parametrize("name", CASES)
def test_all_checks_were_made_and_none_failed_but_those_that_must(name):
    row, checks = ROWS[name], CASES[name]
    expected = sum(check.expected_failure is not None for check in checks)
    counts = [int(row[column]) for column in ("checks", "passed", "failed as expected")]
    assert counts == [len(checks), len(checks) - expected, expected]
    assert float(row["distance"]) <= float(row["tolerance"]) <= 1e-2


def test_every_model_type_has_a_row():
    plugins = [importlib.import_module(f"{package}.plugin") for package in ("vflowopt_hf", "vflowopt_qwen")]
    descriptors = [descriptor for plugin in plugins for descriptor in plugin.vflowopt_adapters()]
    told = {row["model type"].strip("`") for row in ROWS.values()}
    assert told == {kind for descriptor in descriptors for kind in descriptor.model_types}


def test_rows_are_written_one_by_one():
    page = read("conformance.md")
    name, *others = CASES
    lines = MADE["rows"](page)
    assert MADE["written"](page, lines, CASES) == page
    changed = MADE["written"](page, {**lines, name: f"| `{name}` | new |"}, CASES)
    assert MADE["rows"](changed) == {**lines, name: f"| `{name}` | new |"}
    assert list(MADE["rows"](MADE["written"](page, lines, others))) == others
