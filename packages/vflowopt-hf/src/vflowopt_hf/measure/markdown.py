"""Tables that are printed row by row, as they are measured."""

import sys
from collections.abc import Sequence


def print_row(cells: Sequence[str]) -> None:
    """A row of a Markdown table on standard output, at once."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()
