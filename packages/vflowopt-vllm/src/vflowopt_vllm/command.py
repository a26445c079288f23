"""``vflowopt-vllm``: what to pass to ``vllm serve``, and what comes of it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vflowopt.errors import VFlowOptError
from vflowopt_vllm.bench import arguments as bench
from vflowopt_vllm.options import STRATEGY, as_arguments, engine_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # What follows belongs to another program's command line, which argparse would read as this one's.
    end = given.index("--") if "--" in given else len(given)
    parser = _parser()
    options = parser.parse_args(given[:end], argparse.Namespace(served=given[end + 1 :]))
    if options.served and options.run is not bench.run:
        parser.error(f"{options.command} starts no server, to which {' '.join(options.served)} could go")
    try:
        options.run(options)
    except VFlowOptError as error:
        sys.stderr.write(f"vflowopt-vllm: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vflowopt-vllm", description="Serve a model pruned, with unmodified vLLM.")
    commands = parser.add_subparsers(dest="command", required=True)
    served = argparse.ArgumentParser(add_help=False)
    served.add_argument("model", help="directory or hub id of a checkpoint")
    served.add_argument("--one-stage", action="store_true", help="several stages as one of the same average retention")
    served.add_argument("--without-mass", action="store_true", help="leave out the mass of a strategy")
    flags = commands.add_parser(
        "flags",
        parents=[served],
        help="print the options of `vllm serve` that serve a model with a strategy",
        description="Checks a model and a strategy, and prints what to pass to `vllm serve`: "
        "vllm serve MODEL $(vflowopt-vllm flags MODEL STRATEGY)",
    )
    flags.add_argument("strategy", help=STRATEGY)
    flags.set_defaults(run=_flags)
    measured = commands.add_parser(
        "bench",
        parents=[served],
        help="measure throughput and time to first token, unpruned and pruned",
        description=bench.DESCRIPTION,
    )
    bench.add_options(measured)
    measured.set_defaults(run=bench.run)
    shape = commands.add_parser(
        "shape",
        help="write a checkpoint without weights, to be measured",
        description="Writes configuration, tokenizer and image processor of a model of a published size. vLLM fills it "
        "with random weights: vflowopt-vllm bench DIRECTORY -- --load-format dummy",
    )
    shape.add_argument("name", help="of the shape; a wrong one lists all")
    shape.add_argument("directory", type=Path, help="to write to; new or empty")
    shape.set_defaults(run=_shape)
    return parser


def _flags(given: argparse.Namespace) -> None:
    options = engine_options(given.model, given.strategy, one_stage=given.one_stage, without_mass=given.without_mass)
    sys.stdout.write(" ".join(as_arguments(options)) + "\n")


def _shape(given: argparse.Namespace) -> None:
    from vflowopt_vllm.bench.shapes import write_shape

    write_shape(given.name, given.directory)
