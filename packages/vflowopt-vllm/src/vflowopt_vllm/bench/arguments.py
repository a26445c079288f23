"""``vflowopt-vllm bench``: the command's options, checked before anything is started."""

import argparse
import re
import signal
import sys
from pathlib import Path

from vflowopt.cli.tables import print_table
from vflowopt.files.output import Output
from vflowopt_vllm.bench.result import RESULT_FILE
from vflowopt_vllm.bench.run import measure
from vflowopt_vllm.bench.subjects import check_served, subjects_of
from vflowopt_vllm.bench.tables import tables
from vflowopt_vllm.bench.workload import Workload
from vflowopt_vllm.options import STRATEGY

STRATEGIES = ("0.5", "0.25", "0.1")
"""What is measured if nothing is given."""

DESCRIPTION = """Serves a model unpruned and with each strategy, a server of vLLM on the loopback address each, asks all
of them the same in turns, and prints throughput and time to first token. What comes after -- goes to every server:
vflowopt-vllm bench MODEL -- --max-model-len 8192"""

_STRATEGY = f"{STRATEGY}; may be repeated; default {', '.join(STRATEGIES)}"
_MEMORY = "share of the device's memory for all servers together; default %(default)s"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of the command, besides the model and how its strategies are served."""
    usual, add = Workload(), parser.add_argument
    add("-s", "--strategy", action="append", metavar="STRATEGY", dest="strategies", help=_STRATEGY)
    add("--clients", type=_count, default=usual.clients, metavar="N", help="that ask at once; default %(default)s")
    add("--requests", type=_count, metavar="N", help="of a round; default twice as many as clients")
    add("--rounds", type=_count, default=5, metavar="N", help="after one that warms up; default %(default)s")
    add("--image", type=_size, default=usual.size, metavar="WxH", help="pixels of each image; default 1260x1260")
    add("--words", type=_count, default=usual.words, metavar="N", help="of each question; default %(default)s")
    add("--max-tokens", type=_count, default=usual.max_tokens, metavar="N", help="of each answer; default %(default)s")
    add("--seed", type=_seed, default=usual.seed, metavar="N", help="of images and text; default %(default)s")
    add("--gpu-memory-utilization", type=_share, default=0.9, metavar="SHARE", help=_MEMORY)
    add("--out", type=Path, metavar="FILE", help="JSON file for every answer of every round")
    add("--force", action="store_true", help="replace FILE even if it is something else")


def run(given: argparse.Namespace) -> None:
    """Measure and print.

    Args:
        given: the command's options; ``served`` is what came after ``--``.

    Raises:
        ServingError: a strategy cannot be served, or a server fails.
        InputError: an option has a wrong value.
        OutputError: the file cannot be written.
    """
    check_served(given.served)
    out = None if given.out is None else Output.claim(given.out, RESULT_FILE, force=given.force)
    workload = Workload(
        clients=given.clients,
        requests=given.requests or 2 * given.clients,
        size=given.image,
        words=given.words,
        max_tokens=given.max_tokens,
        seed=given.seed,
    )
    chosen = given.strategies or STRATEGIES
    subjects = subjects_of(given.model, chosen, one_stage=given.one_stage, without_mass=given.without_mass)
    # Whoever ends the benchmark ends its servers.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured = measure(
            given.model, subjects, given.served, workload, given.rounds, given.gpu_memory_utilization, _say
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    if out is not None:
        out.write(measured.to_json())
    for table in tables(measured):
        print_table(table.title, table.columns, table.rows, table.caption)


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _count(text: str) -> int:
    return _whole(text, least=1)


def _seed(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} up")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in pixels, such as 1260x840")
    return int(found[1]), int(found[2])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return share
