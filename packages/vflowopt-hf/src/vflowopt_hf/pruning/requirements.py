"""What a strategy needs of a model, checked before anything is installed."""

from typing import Any

from vflowopt import Strategy
from vflowopt.components.mass import KEY_BIAS
from vflowopt.components.schedule import stage_widths
from vflowopt.components.stage_recycling import HIDDEN_STATES
from vflowopt.components.stage_scoring import DECODER_ATTENTION
from vflowopt.errors import StrategyError
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.decoder.kv_cache import num_layers
from vflowopt_hf.decoder.layer_kinds import attending_layers
from vflowopt_hf.family import Family
from vflowopt_hf.plans.stage_plan import attention_use
from vflowopt_hf.vision.capture import NO_CLASS_TOKEN

LAYER_ATTENTION, VALUES = "layer-attention", "values"
"""What is captured only for components that need it."""

OFFERED = frozenset(
    {
        "attention",
        "entropy",
        "saliency",
        "keys",
        "features",
        "text",
        LAYER_ATTENTION,
        VALUES,
        DECODER_ATTENTION,
        HIDDEN_STATES,
        KEY_BIAS,
    }
)
"""What components may need (:attr:`vflowopt.components.Component.needs`) and every family gives."""

CLASS_ATTENTION = "class-attention"
"""What only families with a class token give."""


def check_fits(family: Family, model: Any, strategy: Strategy) -> None:
    """Check a strategy against a model before anything is installed.

    Raises:
        StrategyError: a stage lies beyond the last decoder layer, a component needs what no unit offers, or a scorer
            the attention of a layer that has none.
    """
    offered = OFFERED | ({CLASS_ATTENTION} if family.class_tokens_of(model) else set())
    for component in components_of(strategy):
        missing = component.needs - offered
        if missing:
            remedy = f": {NO_CLASS_TOKEN}" if CLASS_ATTENTION in missing else ""
            raise StrategyError(
                f"{component.kind} {component.component_name()!r} needs {', '.join(sorted(missing))}, which "
                f"{family.name} models do not offer; they offer {', '.join(sorted(offered))}{remedy}"
            )
    stage_widths(strategy.schedule.boundaries, num_layers(family, model))
    config: Any = family.decoder(model).config
    ranking = strategy.stage_scorer or strategy.scorer
    attending_layers(config, attention_use(strategy).observed, f"{family.name}: {ranking.component_name()}")


def captures_more(strategy: Strategy) -> bool:
    """Whether a strategy looks at what is captured for it alone, so that images must be encoded again for it."""
    return any(component.needs & {LAYER_ATTENTION, VALUES} for component in components_of(strategy))
