"""What one call of ``vflowopt bench`` measured: made, shown, and written."""

import json
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from rich.console import Console

from vflowopt.benchmark import Benchmark, BenchReport, Growth
from vflowopt.cli.bench_tables import Table, growth, sweep, tables
from vflowopt.cli.console import table

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
        _print([sweep(made.runs)], console)
        console.print("All tables of every run: --out, or --json.", highlight=False)
    elif made.runs:
        _print(tables(made.runs[0]), console)
    if made.growth is not None:
        console.print(made.growth.device, highlight=False)
        _print(growth(made.growth), console)


def write(made: BenchReport, out: Path) -> dict[str, Path]:
    """Write bench.json, bench.md and bench.png into an existing directory; returns them by suffix."""
    from vflowopt.picture.bench_chart import draw_runs
    from vflowopt.picture.growth_chart import draw_growth

    files = {suffix: out / f"bench.{suffix}" for suffix in ("json", "md", "png")}
    files["json"].write_text(json.dumps(made.to_data(), indent=1) + "\n", encoding="utf-8")
    files["md"].write_text(markdown(made), encoding="utf-8")
    picture = draw_runs(made.runs, made.subject) if made.growth is None else draw_growth(made.growth)
    picture.save(files["png"])
    return files


def markdown(made: BenchReport) -> str:
    """The tables of all runs, and what they are of."""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    lines = [f"# {made.subject}", "", made.summary, "", "```bash", made.command, "```", "", versions, ""]
    if len(made.runs) > 1:
        lines += _table(sweep(made.runs), 2)
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
        console.print(table(one.title, one.columns, one.rows, one.caption))


def _table(one: Table, level: int) -> list[str]:
    lines = [f"{'#' * level} {one.title}", "", _line(one.columns)]
    lines.append(_line(("---", *["---:"] * (len(one.columns) - 1))))
    lines += [_line(row) for row in one.rows]
    return [*lines, "", one.caption, ""] if one.caption else [*lines, ""]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
