"""What ablations leave behind: Markdown, CSV, and a picture per study."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vflowopt.ablation.curves import curves
from vflowopt.ablation.forest import forest
from vflowopt.ablation.found import FOUND, found
from vflowopt.ablation.studies import STUDIES
from vflowopt.ablation.table import Table
from vflowopt.compare.chart import draw
from vflowopt.compare.report import blocks, csv_of, escaped, record
from vflowopt.files.output import FileKind, Output
from vflowopt.picture.png import PNG_FILE, png

_KINDS = {
    "md": FileKind("an ablation", re.compile(rb"# Ablations\n")),
    "csv": FileKind("an ablation", re.compile(rb"study,search,")),
}

LEGEND = """\
Accuracy: exact match, mean over seeds (lowest to highest); its interval is Wilson's over questions. *against*: paired
difference in percentage points to the study's first row with the same seeds. *similarity*: last-token similarity to the
unpruned model on these questions. *search score*: what the search gave its best strategy, by its own objective on its
own samples.
"""


def claim_report(out: Path, studies: Iterable[str], *, force: bool = False) -> list[Output]:
    """Claim ablate.md, ablate.csv and a picture per study, in this order.

    Args:
        out: an existing directory.
        studies: their names.
        force: replace files of that name whatever they hold.

    Raises:
        OutputError: one of them cannot be written, or is somebody else's.
    """
    claimed = [Output.claim(out / f"ablate.{suffix}", kind, force=force) for suffix, kind in _KINDS.items()]
    return claimed + [Output.claim(out / f"ablate-{name}.png", PNG_FILE, force=force) for name in studies]


def write_report(out: Path, tables: Sequence[Table], introduction: str, *, force: bool = False) -> list[Path]:
    """Write ablate.md, ablate.csv and a picture per study.

    Args:
        out: an existing directory.
        tables: studies in order, of one study model by model.
        introduction: what was done, in Markdown.
        force: replace files of that name whatever they hold.

    Returns:
        The files.

    Raises:
        OutputError: see :func:`claim_report`.
    """
    studies = list(dict.fromkeys(table.study.name for table in tables))
    pictures = [png(_picture([table for table in tables if table.study.name == name])) for name in studies]
    contents: list[str | bytes] = [markdown(tables, introduction), csv_of(records(tables)), *pictures]
    claimed = claim_report(out, studies, force=force)
    return [output.write(content) for output, content in zip(claimed, contents, strict=True)]


def markdown(tables: Sequence[Table], introduction: str) -> str:
    """One section per study, one table per model, and at last what was found."""
    lines = ["# Ablations", "", introduction, "", LEGEND]
    before = ""
    for table in tables:
        if table.study.name != before:
            before = table.study.name
            lines += [f"## {before.capitalize()}: {STUDIES[before][0]}", ""]
        lines += [f"### {escaped(table.model)}", "", *blocks(table.columns, table.texts()), ""]
        if before == "samples":
            lines += [*table.spread_over_rows(), ""]
    first = {table.model: table for table in reversed(tables)}
    for model, table in reversed(first.items()):
        lines += [f"## Strategies found for {escaped(model)}", "", *blocks(FOUND, found(table)), ""]
    return "\n".join(lines)


def records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A cell's figures, once for every study that it belongs to."""
    return [
        {
            "study": table.study.name,
            "search": result.cell.method,
            **record(row, result),
            "search_score": "" if result.score is None else result.score,
        }
        for table in tables
        for row in table.rows
        for result in row.results
    ]


def _picture(tables: Sequence[Table]) -> Image.Image:
    """Of one study: curves where numbers vary, else one row below the other."""
    if tables[0].study.name == "effort":
        return draw([axes for table in tables for axes in curves(table.model, table.study, table.rows)])
    return forest(tables)
