"""Tables at any width: no word is broken, no line too long, nothing is lost."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from vflowopt.cli.tables import GAP, print_table

LONG = "calibrated-attention@0.25,threshold=1.5,cell=3.5"
COLUMNS = ("strategy", "accuracy", "visual tokens")
ROWS = [("unpruned", "98.0 %", "677"), ("random@0.25", "81.5 % (76.0 % to 86.0 %)", "677 > 170 > 80")]


def printed(*arguments, width=80, **options):
    to = io.StringIO()
    print_table(*arguments, console=Console(file=to, width=width), **options)
    return to.getvalue()


def test_as_it_is_where_there_is_room():
    assert printed("A title", COLUMNS, ROWS, "A caption.").splitlines() == [
        "A title",
        "strategy                      accuracy   visual tokens",
        "───────────  ─────────────────────────  ──────────────",
        "unpruned                        98.0 %             677",
        "random@0.25  81.5 % (76.0 % to 86.0 %)  677 > 170 > 80",
        "A caption.",
        "",
    ]


def test_intervals_go_below_their_figures():
    assert printed("A title", COLUMNS, ROWS, width=50).splitlines()[3:7] == [
        "unpruned                 98.0 %             677",
        "random@0.25              81.5 %  677 > 170 > 80",
        "             (76.0 % to 86.0 %)",
        "",
    ]


def test_long_heads_become_numbers():
    lines = printed("", ("layer", LONG, f"{LONG},seed=1"), [("0", "0.1", "0.2")]).splitlines()
    assert lines[1:5] == [f"[1] {LONG}", f"[2] {LONG},seed=1", "layer  [1]  [2]", "─────  ───  ───"]


def test_long_names_stand_above_their_figures():
    lines = printed("", COLUMNS, [(LONG, "98.0 %", "677 > 170"), *ROWS[:1]], width=50).splitlines()
    assert lines[1:] == [
        "  accuracy  visual tokens",
        "  ────────  ─────────────",
        LONG,
        "    98.0 %      677 > 170",
        "unpruned",
        "    98.0 %            677",
        "",
    ]


def test_many_columns_make_several_pages_with_the_names():
    columns = ("part", *(f"figure-{number}" for number in range(9)))
    lines = printed("", columns, [("whole", *["12.3 ms"] * 9)], width=50).splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("part", "whole"))] == ["part", "whole"] * 3
    assert sum(line.count("12.3 ms") for line in lines) == 9


def test_prose_is_aligned_left_and_wraps():
    lines = printed("", ("", "unpruned"), [("answer", "a rather long answer in words")], width=24, prose=True)
    assert lines.splitlines()[3:] == ["answer  a rather long", "        answer in words", ""]


def test_styles_and_markup_of_others_are_left_alone():
    assert "[red]x[/red]" in printed("[b]", ("a",), [("[red]x[/red]",)])


words = st.text(st.sampled_from("abc123%()[]-_=,.€語"), min_size=1, max_size=30)
cells = st.lists(words, max_size=4).map(" ".join)


@given(st.data(), st.integers(1, 5), st.integers(12, 100), st.booleans())
def test_no_word_is_broken_or_lost(data, count, width, prose):
    columns = data.draw(st.lists(cells, min_size=count, max_size=count))
    rows = data.draw(st.lists(st.lists(cells, min_size=count, max_size=count), min_size=1, max_size=4))
    shown = printed("a title", columns, rows, "a caption", width=width, prose=prose)
    there = set(shown.split()) | {word.removesuffix(":") for word in shown.split()}
    given_words = [word for row in [*rows, columns[1:]] for cell in row for word in cell.split()]
    assert set(given_words) <= there
    longest = max(map(cell_len, given_words), default=0) + len("  [1] :")
    assert all(cell_len(line) <= max(width, longest + GAP) for line in shown.splitlines())


@pytest.mark.parametrize("width", [80, 60, 20])
def test_nothing_wider_than_the_terminal(width):
    shown = printed("A title", COLUMNS, [("a name", "98.0 %", "677 > 170"), *ROWS], "A caption.", width=width)
    assert max(map(cell_len, shown.splitlines())) <= width
