"""Run the conformance tests of a file without pytest, and print a row of results for each of their cases."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vflowopt.errors import InputError
from vflowopt_hf.measure.markdown import print_row
from vflowopt_hf.testing.results import HEADER, cases_in, chosen, measure


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and on standard error what fails; returns 1 if something does."""
    parser = argparse.ArgumentParser(prog="python -m vflowopt_hf.testing", description=__doc__)
    parser.add_argument("file", type=Path, help="Python file with tests that @conformance(...) decorates")
    parser.add_argument("cases", nargs="*", metavar="case", help="names; all by default")
    options = parser.parse_args(arguments)
    try:
        cases = chosen(cases_in(options.file), options.cases)
    except InputError as error:
        parser.error(str(error))
    failed = False
    print_row(HEADER)
    print_row(["---"] * len(HEADER))
    for checks in cases.values():
        result = measure(checks)
        print_row(result.cells)
        for failure in result.failures:
            sys.stderr.write(f"{failure}\n")
        failed = failed or bool(result.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
