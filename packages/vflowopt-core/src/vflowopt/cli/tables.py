"""Tables as wide as the terminal that break no word.

What is too wide is laid out otherwise, in this order: intervals below their figures, long heads as numbers that are
explained above, each row's name on a line of its own, columns on several pages, and at last one figure a line.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from vflowopt.cli.console import results, wrapped

GAP = 2
"""Spaces between columns."""

SHORT = 12
"""Heads up to this width are never replaced by numbers."""

Cells = tuple[str, ...]


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    *,
    prose: bool = False,
    console: Console | None = None,
) -> None:
    """Print a table whose first column is a name.

    Args:
        title: above it.
        columns: heads.
        rows: texts, as many as columns.
        caption: below it.
        prose: the other columns hold texts, which wrap between words, instead of figures, which are aligned right.
        console: where; standard output by default.
    """
    console = console or results()
    lines = [*_plain(title, console.width, "bold")]
    lines += laid_out(Grid(tuple(columns), tuple(map(tuple, rows)), prose), console.width)
    lines += [*_plain(caption, console.width, "dim")] if caption else []
    for line in [*lines, Text()]:
        console.print(line, soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Grid:
    """Texts of a table.

    Attributes:
        columns: heads.
        rows: texts, as many as columns.
        prose: see :func:`print_table`.
    """

    columns: Cells
    rows: tuple[Cells, ...]
    prose: bool = False

    def only(self, indices: Iterable[int]) -> "Grid":
        """The same with some of the columns."""
        chosen = list(indices)
        rows = tuple(tuple(row[index] for index in chosen) for row in self.rows)
        return replace(self, columns=tuple(self.columns[index] for index in chosen), rows=rows)

    def widths(self, room: int, *, names: bool = True) -> list[int] | None:
        """Widths of the columns that fit into a line together; ``None`` if there are none.

        Args:
            room: width of a line.
            names: whether the first column holds names, which wrap between words.
        """
        least, wanted = [], []
        for index, head in enumerate(self.columns):
            cells = [row[index] for row in self.rows]
            wraps = self.prose or (names and index == 0)
            narrow = [_longest_word(cell) if wraps or not _is_figure(cell) else _longest_line(cell) for cell in cells]
            least.append(max([_longest_word(head), *narrow]))
            wanted.append(max([least[-1], *map(_longest_line, [head, *cells])]))
        room -= GAP * (len(wanted) - 1)
        if sum(least) > room:
            return None
        while sum(wanted) > room:  # the widest that can still give way
            _, index = max((width, index) for index, width in enumerate(wanted) if width > least[index])
            wanted[index] -= 1
        return wanted


def laid_out(grid: Grid, room: int) -> Iterator[Text]:
    """Lines of a table, none with a broken word; only a single word may be longer than ``room``."""
    legend: list[str] = []
    if not grid.widths(room) and not grid.prose:
        grid = replace(grid, rows=tuple((name, *_with_breaks(cells)) for name, *cells in grid.rows))
        if not grid.widths(room):
            grid, legend = _numbered(grid)
    for line in legend:
        yield from _plain(line, room)
    figures = grid.only(range(1, len(grid.columns)))
    if widths := grid.widths(room):
        yield from _drawn(grid, widths)
    elif not grid.prose and (widths := figures.widths(room - GAP, names=False)):
        yield from _drawn(figures, widths, [row[0] for row in grid.rows])
    elif pages := _pages(grid, room):
        for number, page in enumerate(pages):
            yield from [Text()] if number else []
            yield from _drawn(page, page.widths(room) or [])
    else:
        yield from _one_by_one(grid, room)


def _with_breaks(cells: Iterable[str]) -> Iterator[str]:
    """Figures with their intervals below them."""
    return (cell.replace(" (", "\n(") for cell in cells)


def _numbered(grid: Grid) -> tuple[Grid, list[str]]:
    """Heads that are wider than their figures become numbers; and what the numbers mean."""
    heads = list(grid.columns)
    legend: list[str] = []
    for index, head in list(enumerate(heads))[1:]:
        body = max([SHORT, *(_longest_line(row[index]) for row in grid.rows)])
        if _longest_word(head) > body:
            heads[index] = f"[{len(legend) + 1}]"
            legend.append(f"{heads[index]} {head}")
    return replace(grid, columns=tuple(heads)), legend


def _pages(grid: Grid, room: int) -> list[Grid]:
    """Parts that fit, each with the names; empty if a single column does not."""
    pages: list[list[int]] = []
    for index in range(1, len(grid.columns)):
        if pages and grid.only([0, *pages[-1], index]).widths(room):
            pages[-1].append(index)
        elif grid.only([0, index]).widths(room):
            pages.append([index])
        else:
            return []
    return [grid.only([0, *page]) for page in pages]


def _drawn(grid: Grid, widths: Sequence[int], names: Sequence[str] = ()) -> Iterator[Text]:
    """Heads, a rule, and rows; of columns without their names with these above each row."""
    aligned_left = [grid.prose or (index == 0 and not names) for index in range(len(widths))]
    indent = " " * GAP if names else ""
    yield from _row(grid.columns, widths, aligned_left, indent, "bold")
    yield Text(indent + (" " * GAP).join("─" * width for width in widths), "dim")
    for number, row in enumerate(grid.rows):
        yield from [Text(names[number])] if names else []
        yield from _row(row, widths, aligned_left, indent)


def _one_by_one(grid: Grid, room: int) -> Iterator[Text]:
    for name, *cells in grid.rows:
        yield from _plain(name, room)
        for head, cell in zip(grid.columns[1:], cells, strict=True):
            yield from _plain(f"  {head}: {' '.join(cell.split())}", room)


def _row(
    cells: Cells, widths: Sequence[int], aligned_left: Sequence[bool], indent: str, style: str = ""
) -> Iterator[Text]:
    columns = [[*_plain(cell, width, style)] for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, columns))):
        line = Text(indent)
        for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
            cell = column[number] if number < len(column) else Text()
            space = Text(" " * (width - cell.cell_len))
            line.append(" " * GAP if index else "")
            for part in (cell, space) if aligned_left[index] else (space, cell):
                line.append_text(part)
        line.rstrip()
        yield line


def _plain(text: str, width: int, style: str = "") -> Iterator[Text]:
    yield from wrapped(Text(text, style), width)


def _is_figure(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _longest_line(text: str) -> int:
    return max(map(cell_len, text.split("\n")), default=0)
