"""How to start an engine with a strategy."""

import json
from collections.abc import Mapping
from typing import Any

from vflowopt.errors import shown
from vflowopt.strategies.reading import StrategySource
from vflowopt_vllm.architectures import BY_UPSTREAM
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.interfaces import check_interfaces
from vflowopt_vllm.request import KEY, Request

STRATEGY = "a strategy file, a preset, SCORER@BUDGET, FRONT@BUDGET or a budget"
"""What is taken for a strategy on the command line."""


def engine_options(
    model: str, strategy: StrategySource, *, one_stage: bool = False, without_mass: bool = False
) -> dict[str, Any]:
    """Options of ``vllm.LLM``, or of the server, that serve a model with a strategy; checks both.

    For example ``LLM(model, **engine_options(model, "strategy.json"))``.

    Args:
        model: directory or hub id of a checkpoint.
        strategy: a strategy file, a preset, ``"SCORER@BUDGET"``, ``"FRONT@BUDGET"`` or a budget.
        one_stage: serve a strategy of several stages as one stage of the same average retention.
        without_mass: serve a strategy with mass as if it had none; a budget alone means one without.

    Raises:
        ServingError: vLLM is not installed or not as this package knows it, the model is none that is served, or vLLM
            cannot carry the strategy out.
    """
    from transformers import AutoConfig

    check_interfaces()
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ServingError(f"cannot read the configuration of {shown(model)}: {str(error).splitlines()[0]}") from None
    names = [name for name in config.architectures or () if name in BY_UPSTREAM]
    if not names:
        raise ServingError(
            f"{shown(model)} is a {', '.join(config.architectures or ('model without architectures',))}, which is not "
            f"served with a strategy; served are {', '.join(sorted(BY_UPSTREAM))}"
        )
    served, request = BY_UPSTREAM[names[0]], Request(strategy, one_stage, without_mass)
    request.resolve(served.family(), config)
    return {"hf_overrides": {"architectures": [served.name], KEY: request.override}}


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """:func:`engine_options` as arguments of vLLM's server, without spaces: a shell's ``$(...)`` splits at these."""
    overrides = json.dumps(options["hf_overrides"], separators=(",", ":"))
    return ["--hf-overrides", overrides.replace(" ", r"\u0020")]
