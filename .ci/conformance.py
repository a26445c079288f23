"""Run the conformance kit on every built-in family, and write the table in docs/conformance.md: make conformance."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from vflowopt_hf.testing.results import HEADER, cases_in, chosen, measure

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "conformance.md"
TESTS = REPOSITORY / "tests" / "conformance" / "test_families.py"
BEGIN, END = "<!-- made by `make conformance` -->\n", "<!-- end -->\n"


def rows(page: str) -> dict[str, str]:
    """The lines of a page's table, by the name of the case."""
    table = page.split(BEGIN)[1].split(END)[0]
    return {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}


def written(page: str, lines: Mapping[str, str], order: Iterable[str]) -> str:
    """A page whose table has these lines, in an order of names; names without a line are left out."""
    before, rest = page.split(BEGIN)
    table = [row(HEADER), "|---" * len(HEADER) + "|", *(lines[name] for name in order if name in lines)]
    return "\n".join([f"{before}{BEGIN}", *table, f"\n{END}{rest.split(END)[1]}"])


def row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def main(names: list[str]) -> int:
    """Measure some cases, or all, and write each row when it is there; returns 1 if a check fails."""
    cases, failures = cases_in(TESTS), 0
    for name, checks in chosen(cases, names).items():
        result = measure(checks)
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(written(page, {**rows(page), name: row(result.cells)}, cases), encoding="utf-8")
        sys.stderr.writelines(f"{failure}\n" for failure in result.failures)
        failures += len(result.failures)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
