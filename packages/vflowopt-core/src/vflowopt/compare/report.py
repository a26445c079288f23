"""What a comparison leaves behind: Markdown, CSV and a picture."""

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vflowopt.benchmark import Part
from vflowopt.compare.cells import Result
from vflowopt.compare.chart import Axes, Point, Series, draw
from vflowopt.compare.intervals import wilson
from vflowopt.compare.table import COLUMNS, Row
from vflowopt.figures import percent
from vflowopt.files.output import FileKind, Output
from vflowopt.picture.png import PNG_FILE, png

_KINDS = {
    "md": FileKind("a comparison", re.compile(rb"# Comparison\n")),
    "csv": FileKind("a comparison", re.compile(rb"model,method,")),
}

LEGEND = """\
Accuracy: exact match, mean over seeds (lowest to highest); its interval is Wilson's over questions; *against unpruned*
is the paired difference in percentage points. *off by*: tokens of the average layer by which the worst image is off its
budget; more than half a token is marked (!). *visual tokens*: before pruning > after each stage, mean per question (of
the first seed). KV cache, FLOPs of the decoder's prefill, and times: as a share of the unpruned model's.
"""
TIMES = """\
*prefill*: from pixels to first logits, *LM prefill*: the decoder alone, *decode*: per token; medians on the question
with the median number of visual tokens, each method and the unpruned model taking turns.
"""
_PARTS: dict[str, Part] = {
    "lm_prefill": "LM prefill", "prefill": "end-to-end prefill", "decode_per_token": "decode per token",
}  # fmt: skip


def claim_report(out: Path, *, force: bool = False) -> dict[str, Output]:
    """Claim compare.md, compare.csv and compare.png.

    Args:
        out: an existing directory.
        force: replace files of that name whatever they hold.

    Returns:
        The files by suffix.

    Raises:
        OutputError: one of them cannot be written, or is somebody else's.
    """
    kinds = {**_KINDS, "png": PNG_FILE}
    return {suffix: Output.claim(out / f"compare.{suffix}", kind, force=force) for suffix, kind in kinds.items()}


def write_report(
    out: Path, tables: Mapping[str, Sequence[Row]], introduction: str, *, force: bool = False
) -> dict[str, Path]:
    """Write compare.md, compare.csv and compare.png.

    Args:
        out: an existing directory.
        tables: rows by model.
        introduction: what was compared, in Markdown.
        force: replace files of that name whatever they hold.

    Returns:
        The files by suffix.

    Raises:
        OutputError: see :func:`claim_report`.
    """
    picture = draw([axes for model, rows in tables.items() for axes in plots(model, rows)])
    contents: dict[str, str | bytes] = {
        "md": markdown(tables, introduction),
        "csv": as_csv(tables),
        "png": png(picture),
    }
    claimed = claim_report(out, force=force)
    return {suffix: claimed[suffix].write(content) for suffix, content in contents.items()}


def markdown(tables: Mapping[str, Sequence[Row]], introduction: str) -> str:
    """One table per model, after one of accuracies side by side if there are several."""
    timed = any(result.latency for rows in tables.values() for row in rows for result in row.results)
    lines = ["# Comparison", "", introduction, "", LEGEND + (TIMES if timed else "")]
    shown = [index for index in range(len(COLUMNS)) if timed or index < len(COLUMNS) - len(_PARTS)]
    if len(tables) > 1:
        lines += ["## Accuracy", "", *side_by_side(tables), ""]
    for model, rows in tables.items():
        lines += [f"## {escaped(model)}", ""]
        texts = ([row.texts()[index] for index in shown] for row in rows)
        lines += [*blocks([COLUMNS[index] for index in shown], texts), ""]
    return "\n".join(lines)


def side_by_side(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """Lines of a Markdown table: the accuracy of each method at each budget, a column per model."""
    texts: dict[tuple[str, str], dict[str, str]] = {}
    for model, rows in tables.items():
        for row in rows:
            accuracy = "cannot" if row.cannot else row.texts()[COLUMNS.index("accuracy")]
            texts.setdefault((percent(row.budget), row.method), {})[model] = accuracy
    shown = ((*key, *(own.get(model, "") for model in tables)) for key, own in texts.items())
    return blocks(["budget", "method", *tables], shown)


def blocks(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table: a budget, shown where it changes, a name, and figures."""
    lines = [_line(columns), "|---:|---|" + "---:|" * (len(columns) - 2)]
    before = ""
    for budget, *rest in rows:
        lines.append(_line(["" if budget == before else budget, *rest]))
        before = budget
    return lines


def as_csv(tables: Mapping[str, Sequence[Row]]) -> str:
    """One line per cell."""
    return csv_of([record(row, result) for rows in tables.values() for row in rows for result in row.results])


def csv_of(records: Sequence[Mapping[str, Any]]) -> str:
    """One line per record, which all have the same names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def record(row: Row, result: Result) -> dict[str, Any]:
    """A cell's figures; empty where it cannot be run, times also where none were measured."""
    told: dict[str, Any] = {
        "model": result.cell.model, "method": row.method, "budget": result.budget,
        "seed": "" if result.cell.seed is None else result.cell.seed, "cannot": result.cannot,
    }  # fmt: skip
    figures = () if result.cannot else _figures(result)
    told |= dict(figures or dict.fromkeys(_NAMES, ""))
    for name, part in _PARTS.items():
        own, full = result.latency.get(part, ("", ""))
        told |= {f"{name}_s": own, f"{name}_unpruned_s": full}
    return told


_NAMES = (
    "questions", "right", "accuracy", "accuracy_low", "accuracy_high", "similarity", "retention",
    "worst_deviation_tokens", "on_budget", "tokens", "kv_cache_bytes", "flops",
)  # fmt: skip


def _figures(result: Result) -> Sequence[tuple[str, Any]]:
    right, asked = sum(result.right), len(result.right)
    values = (
        asked, right, result.accuracy, *wilson(right, asked), result.similarity, result.retention, result.deviation,
        result.on_budget, " > ".join(f"{count:.2f}" for count in result.tokens), result.kv_cache_bytes, result.flops,
    )  # fmt: skip
    return list(zip(_NAMES, values, strict=True))


def plots(model: str, rows: Sequence[Row]) -> list[Axes]:
    """Accuracy against achieved retention and, where it was measured, against latency of the whole prefill."""
    usable = [row for row in rows if not row.cannot]
    by_retention: dict[str, list[Point]] = {}
    by_latency: dict[str, list[Point]] = {}
    for row in usable:
        low, high = row.interval
        retention = statistics.fmean(result.retention for result in row.able)
        by_retention.setdefault(row.method, []).append(Point(retention, row.accuracy, low, high))
        share = 1.0 if row.results == (row.unpruned,) else row.relative_latency("end-to-end prefill")
        if share is not None:
            by_latency.setdefault(row.method, []).append(Point(share, row.accuracy, low, high))
    drawn = [Axes(model, "average retention", "accuracy", series(by_retention), spread=True)]
    if len(by_latency) > 1:
        drawn.append(Axes(model, "prefill latency, share of unpruned", "accuracy", series(by_latency)))
    return drawn


def series(points: Mapping[str, list[Point]]) -> tuple[Series, ...]:
    """Points by name."""
    return tuple(Series(name, tuple(own)) for name, own in points.items())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """A text as it may stand in a Markdown table or heading."""
    return text.replace("|", "\\|").replace("\n", " ")
