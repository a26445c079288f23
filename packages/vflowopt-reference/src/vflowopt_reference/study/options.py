"""Options that every study with searches has."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_search_options(parser: argparse.ArgumentParser, questions: int) -> None:
    """Where to write, how many questions, and how to search; ``questions`` is the default of the second."""
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument(
        "--questions", type=int, default=questions, help=f"held-out test questions (default {questions})"
    )
    parser.add_argument("--samples", type=int, default=30, help="search samples (default 30)")
    parser.add_argument("--initial", type=int, default=10, help="evaluations before the search's model (default 10)")
    parser.add_argument("--iterations", type=int, default=50, help="evaluations with it (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: the models are that small)")
