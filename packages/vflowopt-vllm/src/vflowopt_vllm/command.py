"""``vflowopt-vllm``: what to pass to ``vllm serve``."""

import argparse
import json
import sys
from collections.abc import Sequence

from vflowopt.errors import VFlowOptError
from vflowopt_vllm.options import engine_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="vflowopt-vllm", description="Serve a model pruned, with unmodified vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    flags = commands.add_parser(
        "flags",
        help="print the options of `vllm serve` that serve a model with a strategy",
        description="Checks a model and a strategy, and prints what to pass to `vllm serve`: "
        "vllm serve MODEL $(vflowopt-vllm flags MODEL STRATEGY)",
    )
    flags.add_argument("model", help="directory or hub id of a checkpoint")
    flags.add_argument("strategy", help="a strategy file, a preset, SCORER@BUDGET, FRONT@BUDGET or a budget")
    flags.add_argument("--one-stage", action="store_true", help="several stages as one of the same average retention")
    flags.add_argument("--without-mass", action="store_true", help="leave out the strategy's mass")
    given = parser.parse_args(arguments)
    try:
        options = engine_options(
            given.model, given.strategy, one_stage=given.one_stage, without_mass=given.without_mass
        )
    except VFlowOptError as error:
        sys.stderr.write(f"vflowopt-vllm: {error}\n")
        return 2
    # Without spaces, so that a shell's $(...) keeps it in one piece; those that are left stand in names.
    overrides = json.dumps(options["hf_overrides"], separators=(",", ":")).replace(" ", "\\u0020")
    sys.stdout.write(f"--hf-overrides {overrides}\n")
    return 0
