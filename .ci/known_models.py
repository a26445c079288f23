"""Write the tables of model types in docs/families.md anew, from ``vflowopt.discovery.known_models``: make families."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from vflowopt.discovery.known_models import verdicts

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- made by `make families` -->\n", "<!-- end -->\n"

TABLES = {
    "supported": ("Supported", ("model type", "package"), ("told",)),
    "adapter": ("One adapter away", ("model type", "nearest", "what it is"), ("nearest", "told")),
    "capability": ("A capability is missing", ("model type", "nearest", "what is missing"), ("nearest", "told")),
    "other method": ("Not this method", ("model type", "why"), ("told",)),
}


def tables() -> str:
    """All four, by status."""
    return "\n".join("\n".join(table(status)) + "\n" for status in TABLES)


def table(status: str) -> Iterator[str]:
    """The lines of one."""
    title, columns, fields = TABLES[status]
    rows = {kind: verdict for kind, verdict in verdicts().items() if verdict.status == status}
    yield from (f"### {title}: {len(rows)}", "", row(columns), "|---" * len(columns) + "|")
    for kind, verdict in rows.items():
        told = [getattr(verdict, name) for name in fields]
        yield row([f"`{kind}`", *(f"`{text}`" if text in verdicts() or " " not in text else text for text in told)])


def row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def written(page: str) -> str:
    """A page with its tables made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
