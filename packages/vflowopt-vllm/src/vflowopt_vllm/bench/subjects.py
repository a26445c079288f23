"""What is measured beside each other: the model as vLLM serves it, and with each strategy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vflowopt.benchmark.result import UNPRUNED
from vflowopt.errors import InputError
from vflowopt_vllm.options import as_arguments, engine_options

OWN = ("--model", "--hf-overrides", "--host", "--port", "--served-model-name", "--gpu-memory-utilization")
"""Options of the server that the benchmark sets itself."""


@dataclass(frozen=True)
class Subject:
    """A row of the benchmark.

    Attributes:
        name: the strategy as it was given, or ``"unpruned"``.
        arguments: of the server, which make it serve so.
    """

    name: str
    arguments: tuple[str, ...] = ()


def subjects_of(model: str, strategies: Iterable[str], *, one_stage: bool, without_mass: bool) -> list[Subject]:
    """The rows, unpruned first; every strategy is checked.

    Args:
        model: directory or hub id of a checkpoint.
        strategies: see :func:`vflowopt_vllm.engine_options`.
        one_stage: see there.
        without_mass: see there.

    Raises:
        ServingError: vLLM cannot serve the model with one of them.
        InputError: one is given twice.
    """
    names = list(strategies)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"strategy {name!r} is given {names.count(name)} times; give it once")
    return [Subject(UNPRUNED)] + [
        Subject(name, tuple(as_arguments(engine_options(model, name, one_stage=one_stage, without_mass=without_mass))))
        for name in names
    ]


def check_served(arguments: Sequence[str]) -> None:
    """Check further options of the server.

    Raises:
        InputError: one is among :data:`OWN`.
    """
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        # vLLM takes nested options with dots, and unambiguous beginnings of names.
        if name.partition(".")[0] in OWN:
            raise InputError(f"{argument.partition('=')[0]} is set by the benchmark itself; leave it out after --")
