"""Which strategy an engine was asked to serve with, and whether vLLM can carry it out.

The request stands in the model's configuration, under :data:`KEY`, where ``--hf-overrides`` puts it; vLLM hands the
configuration to all of its processes. Once it is read, the strategy itself stands there instead of its file's path.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflowopt import Strategy
from vflowopt.components import Schedule, Scorer
from vflowopt.components.mass import KEY_BIAS
from vflowopt.components.schedule import Progressive
from vflowopt.errors import VFlowOptError, shown
from vflowopt.strategies.defaults import Default
from vflowopt.strategies.reading import StrategySource, read_strategy
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.family import Family
from vflowopt_vllm.errors import ServingError

KEY = "vflowopt"
"""Of the request among ``--hf-overrides``."""

OFFERED = frozenset({"attention", "entropy", "saliency", "keys", "values", "features"})
"""What components may need of an image here. Not the text: vLLM encodes an image once for all prompts that hold it."""

ONE_STAGE, WITHOUT_MASS = "one_stage", "without_mass"


@dataclass(frozen=True)
class Request:
    """What ``--hf-overrides`` asks for.

    Attributes:
        strategy: whatever :func:`vflowopt.strategies.reading.read_strategy` takes.
        one_stage: serve a strategy of several stages as one stage of the same average retention.
        without_mass: serve a strategy with mass as if it had none.
    """

    strategy: StrategySource
    one_stage: bool = False
    without_mass: bool = False

    @classmethod
    def of(cls, value: object) -> "Request":
        """Read the override.

        Raises:
            ServingError: it is neither a strategy nor a mapping of these three fields.
        """
        is_request = isinstance(value, Mapping) and "format" not in value
        given: Mapping[str, Any] = value if is_request else {"strategy": value}  # type: ignore[assignment]
        strategy, flags = given.get("strategy"), [given.get(name, False) for name in (ONE_STAGE, WITHOUT_MASS)]
        sound = set(given) <= {"strategy", ONE_STAGE, WITHOUT_MASS} and all(isinstance(flag, bool) for flag in flags)
        if isinstance(strategy, Mapping) and "format" in strategy:
            strategy = _read(strategy)
        if not sound or not isinstance(strategy, Strategy | str | float | int):
            raise ServingError(
                f'"{KEY}": {shown(value)} among the overrides is no request: give a strategy file, a preset or a '
                f'budget, or {{"strategy": ..., "{ONE_STAGE}": true, "{WITHOUT_MASS}": true}}'
            )
        return cls(strategy, *flags)

    @property
    def override(self) -> object:
        """What to put among the overrides; of a strategy that is in no file, all of it."""
        strategy: object = self.strategy
        if isinstance(strategy, Strategy):
            strategy = resolved(strategy)
        elif isinstance(strategy, Path):
            strategy = str(strategy.absolute())
        flags = {name: True for name in (ONE_STAGE, WITHOUT_MASS) if getattr(self, name)}
        return {"strategy": strategy, **flags} if flags else strategy

    def resolve(self, family: Family, config: Any) -> Strategy:
        """The strategy that is served.

        Args:
            family: of the model.
            config: of the model, as transformers has it.

        Raises:
            ServingError: there is no such strategy, or vLLM cannot carry it out.
        """
        layers = int(config.get_text_config().num_hidden_layers)
        try:
            source = read_strategy(self.strategy)
            strategy = source(layers)
        except VFlowOptError as error:
            raise ServingError(str(error)) from None
        told = shown(self.strategy)
        if isinstance(source, Default) or self.without_mass:
            strategy = strategy.model_copy(update={"mass": None})
        if self.one_stage and strategy.schedule.boundaries != (0,):
            average = Progressive.flat(strategy.average_retention(layers))
            strategy = strategy.model_copy(update={"schedule": average})
        _check_stages(strategy, told)
        strategy = strategy.model_copy(update={"rescorer": None})  # there is no stage at which it would rank
        _check_needs(strategy, told, family, config)
        return strategy.model_copy(update={"provenance": None})


def _check_stages(strategy: Strategy, told: str) -> None:
    boundaries = strategy.schedule.boundaries
    if boundaries != (0,):
        raise ServingError(
            f"strategy {told} prunes before decoder layers {', '.join(map(str, boundaries))}, and vLLM stores equally "
            f'many tokens in all layers: search for it with --stages 0, or ask for one stage of the same average ("'
            f'{ONE_STAGE}": true)'
        )
    if type(strategy.schedule).unit_counts is not Schedule.unit_counts:
        raise ServingError(
            f"strategy {told} shares tokens among the images of a prompt by what is in them, and vLLM has to know an "
            f"image's number of tokens from its size alone: take a schedule that counts by size, such as 'progressive'"
        )


def _check_needs(strategy: Strategy, told: str, family: Family, config: Any) -> None:
    offered = OFFERED | ({"class-attention"} if class_tokens(family, config) else set())
    for component in components_of(strategy):
        missing = component.needs - offered
        if KEY_BIAS in missing:
            raise ServingError(
                f"strategy {told} has mass, a bias of keys, which vLLM's attention does not take: search for it with "
                f'--fix mass=0, or serve it without ("{WITHOUT_MASS}": true)'
            )
        earlier = isinstance(component, Scorer) and component.class_attention_layers(1 << 10) > 1
        if missing or earlier:
            what = ", ".join(sorted(missing)) or "class attention of several vision layers"
            raise ServingError(
                f"{component.kind} {component.component_name()!r} of strategy {told} needs {what}; inside vLLM, images "
                f"offer {', '.join(sorted(offered))}: take another {component.kind}"
            )


def class_tokens(family: Family, config: Any) -> int:
    """Leading positions of the vision sequence that are no patches."""
    return family.class_tokens_of(_OfConfig(config))


@dataclass(frozen=True)
class _OfConfig:
    """Stands for a model where only its configuration is there."""

    config: Any


def _read(document: Mapping[str, Any]) -> Strategy:
    try:
        return Strategy.parse(json.dumps(document), origin=f'"{KEY}" among the overrides')
    except VFlowOptError as error:
        raise ServingError(str(error)) from None


def resolved(strategy: Strategy) -> dict[str, Any]:
    """The strategy as it stands in the configuration once the request is read."""
    document: dict[str, Any] = json.loads(strategy.to_json())
    return document


def strategy_in(config: Any) -> Strategy:
    """The strategy that a configuration holds, see :func:`resolved`."""
    return _parsed(json.dumps(getattr(config, KEY)))


def fingerprint(config: Any) -> str:
    """Tells strategies apart that prune otherwise, wherever what they make is stored: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(getattr(config, KEY), sort_keys=True).encode()).hexdigest()[:16]


def retained(config: Any, tokens: int) -> int:
    """How many of an image's tokens enter the language model; known from their number alone."""
    return strategy_in(config).schedule.counts(tokens)[0]


@functools.lru_cache(maxsize=16)
def _parsed(text: str) -> Strategy:
    return Strategy.parse(text, origin="the strategy in the model's configuration")
