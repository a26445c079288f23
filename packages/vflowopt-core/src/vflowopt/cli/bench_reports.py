"""What one call of ``vflowopt bench`` measured: made, shown, and written."""

import json
import platform
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

from rich.console import Console

from vflowopt.benchmark import Benchmark, BenchReport, Growth
from vflowopt.benchmark.report import FORMAT
from vflowopt.cli.bench_cells import Table
from vflowopt.cli.bench_tables import growth, sweeps, tables
from vflowopt.cli.tables import print_table
from vflowopt.files.output import FileKind, Output, claim_folder, make_folder
from vflowopt.picture.png import PNG_FILE, png

_MARKDOWN = FileKind("a benchmark", re.compile(rb"# [^\n]*\n\n[^\n]*\n\n```bash\nvflowopt "))

PACKAGES = ("vflowopt-core", "vflowopt-hf", "torch", "transformers")


def report(subject: str, summary: str, runs: tuple[Benchmark, ...] = (), grown: Growth | None = None) -> BenchReport:
    """The report of this process's command, with the versions of what it ran on."""
    versions = {"python": platform.python_version()}
    installed = {distribution.name for distribution in metadata.distributions()}
    versions |= {name: metadata.version(name) for name in PACKAGES if name in installed}
    command = shlex.join(["vflowopt", *sys.argv[1:]])
    return BenchReport(subject, summary, command, versions, runs, grown)


def show(made: BenchReport, console: Console) -> None:
    """Print every table; of several runs, what they gain."""
    console.print(f"{made.subject}: {made.summary}", highlight=False)
    for run in made.runs:
        console.print(f"{heading(run)}; {run.device}; {_rounds(run)}", highlight=False)
    if len(made.runs) > 1:
        _print(sweeps(made.runs), console)
        console.print("All tables of every run: --out, or --json.", highlight=False)
    elif made.runs:
        _print(tables(made.runs[0]), console)
    if made.growth is not None:
        console.print(made.growth.device, highlight=False)
        _print(growth(made.growth), console)


def claim_report(out: Path, force: bool = False) -> None:
    """Check, before any work, that bench.json, bench.md and bench.png can be written into a directory.

    Raises:
        OutputError: they cannot, or others would be lost.
    """
    if claim_folder(out).is_dir():
        _claimed(out, force)


def write(made: BenchReport, out: Path, *, force: bool = False) -> dict[str, Path]:
    """Write bench.json, bench.md and bench.png into a directory, which is made if need be; returns them by suffix.

    Raises:
        OutputError: they cannot be written, or others would be lost.
    """
    from vflowopt.picture.bench_chart import draw_runs
    from vflowopt.picture.growth_chart import draw_growth

    picture = draw_runs(made.runs, made.subject) if made.growth is None else draw_growth(made.growth)
    contents: dict[str, str | bytes] = {
        "json": json.dumps(made.to_data(), indent=1) + "\n",
        "md": markdown(made),
        "png": png(picture),
    }
    claimed = _claimed(make_folder(out), force)
    return {suffix: claimed[suffix].write(content) for suffix, content in contents.items()}


def _claimed(out: Path, force: bool) -> dict[str, Output]:
    kinds = {"json": FileKind.json("a benchmark", FORMAT), "md": _MARKDOWN, "png": PNG_FILE}
    return {suffix: Output.claim(out / f"bench.{suffix}", kind, force=force) for suffix, kind in kinds.items()}


def markdown(made: BenchReport) -> str:
    """The tables of all runs, and what they are of."""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    lines = [f"# {made.subject}", "", made.summary, "", "```bash", made.command, "```", "", versions, ""]
    if len(made.runs) > 1:
        for one in sweeps(made.runs):
            lines += _table(one, 2)
    for run in made.runs:
        lines += [f"## {heading(run)}", "", f"On {run.device}; {_rounds(run)}.", ""]
        for one in tables(run):
            lines += _table(one, 3)
    if made.growth is not None:
        lines += [f"On {made.growth.device}.", ""]
        for one in growth(made.growth):
            lines += _table(one, 2)
    return "\n".join(lines)


def heading(run: Benchmark) -> str:
    """What distinguishes one run of a sweep."""
    return f"{run.unpruned.tokens[0]:,} visual tokens, {run.text_tokens:,} text tokens, batch {run.batch}"


def _rounds(run: Benchmark) -> str:
    number = next((timing.wall.rounds for timing in run.unpruned.times.values()), 0)
    return f"{number} interleaved round{'' if number == 1 else 's'}"


def _print(made: list[Table], console: Console) -> None:
    for one in made:
        print_table(one.title, one.columns, one.rows, one.caption, console=console)


def _table(one: Table, level: int) -> list[str]:
    lines = [f"{'#' * level} {one.title}", "", _line(one.columns)]
    lines.append(_line(("---", *["---:"] * (len(one.columns) - 1))))
    lines += [_line(row) for row in one.rows]
    return [*lines, "", one.caption, ""] if one.caption else [*lines, ""]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
