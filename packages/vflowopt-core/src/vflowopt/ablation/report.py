"""What ablations leave behind: Markdown, CSV, and a picture per study."""

from collections.abc import Sequence
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

LEGEND = """\
Accuracy: exact match, mean over seeds (lowest to highest); its interval is Wilson's over questions. *against*: paired
difference in percentage points to the study's first row with the same seeds. *similarity*: last-token similarity to the
unpruned model on these questions. *search score*: what the search gave its best strategy, by its own objective on its
own samples.
"""


def write_report(out: Path, tables: Sequence[Table], introduction: str) -> list[Path]:
    """Write ablate.md, ablate.csv and a picture per study.

    Args:
        out: an existing directory.
        tables: studies in order, of one study model by model.
        introduction: what was done, in Markdown.

    Returns:
        The files.
    """
    text, lines = out / "ablate.md", out / "ablate.csv"
    text.write_text(markdown(tables, introduction), encoding="utf-8")
    lines.write_text(csv_of(records(tables)), encoding="utf-8")
    files = [text, lines]
    for name in dict.fromkeys(table.study.name for table in tables):
        files.append(out / f"ablate-{name}.png")
        _picture([table for table in tables if table.study.name == name]).save(files[-1])
    return files


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
