"""What upstream itself makes of pixels, asked without any help of the adapter's geometry."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vflowopt.errors import VFlowOptError
from vflowopt.testing import fail
from vflowopt_hf.plans.prefill import place_units
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.testing.batches import Batch, PlacedMedia
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.encoders import tap_encoders
from vflowopt_hf.vision.products import products_through


@dataclass(frozen=True, eq=False)
class Embedded:
    """What upstream hands to its decoder.

    Attributes:
        embeddings: [batch, queries, features].
        contexts: what scorers see of each image and video, in prompt order.
    """

    embeddings: Tensor
    contexts: tuple[UnitContext, ...]

    def features(self, placed: Sequence[PlacedMedia]) -> Tensor:
        """Embeddings of the visual tokens of some images and videos, one after the other: [tokens, features]."""
        return torch.cat([self.embeddings[entry.sample, entry.rows] for entry in placed])


class _Seen(Exception):  # noqa: N818
    """The decoder was reached: what it would compute is not needed."""


def embed(subject: Subject, batch: Batch, changed: Mapping[str, Tensor] | None = None) -> Embedded:
    """Run upstream up to its decoder; ``changed`` replaces some of the batch's inputs."""
    family, model = subject.family, subject.model
    inputs = {**batch.inputs, **(changed or {})}
    seen: list[Embedded] = []

    with tap_encoders(family, model) as tap:

        def look(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            placed = place_units(
                family.placeholder_ids(model),
                tap.since(0),
                inputs["input_ids"],
                inputs["attention_mask"],
                subject.statistics,
                kwargs["inputs_embeds"],
            )
            seen.append(Embedded(kwargs["inputs_embeds"], tuple(unit.context for unit in placed.units)))
            raise _Seen

        handle = family.decoder(model).register_forward_pre_hook(look, with_kwargs=True)
        try:
            model(**inputs, use_cache=False)
        except _Seen:
            pass
        except VFlowOptError:  # says itself what is wrong
            raise
        except Exception as error:
            fail(
                f"upstream refuses the prompts: {type(error).__name__}: {error}. The kit writes as many placeholders "
                f"({dict(family.placeholder_ids(model))}) as Family.units says tokens: see checks 'counts' and "
                f"'visual tokens'",
                error,
            )
        finally:
            handle.remove()
    if not seen:
        fail(f"Family.decoder names {type(family.decoder(model)).__name__}, which upstream's forward never calls")
    return seen[0]


def pixel_names(batch: Batch) -> list[str]:
    """Names of the inputs that hold pixels."""
    return [name for name, value in batch.pixels.items() if name.startswith("pixel") and value.is_floating_point()]


def other_pixels(batch: Batch) -> dict[str, Tensor]:
    """Pixel inputs that differ from the batch's in every pixel, apart from crops and frames that are padding."""
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name in pixel_names(batch):
        value = batch.inputs[name]
        pixels = tuple(range(max(1, value.ndim - 3), value.ndim))
        empty = (value == 0).all(dim=pixels, keepdim=True)
        changed[name] = torch.where(empty, value, value + 0.5 + torch.rand(value.shape, generator=generator))
    return changed


def vision_attentions(subject: Subject) -> dict[str, nn.Module]:
    """All modules of the observed vision attention's class outside the decoder, by name."""
    observed = subject.family.vision_attention(subject.model)
    decoder = set(subject.family.decoder(subject.model).modules())
    return {
        name: module
        for name, module in subject.family.backbone(subject.model).named_modules()
        if type(module) is type(observed) and module not in decoder
    }


@contextmanager
def attention_function(modules: Sequence[nn.Module], function: Any) -> Iterator[None]:
    """Let some attention modules use another attention function inside the block."""
    name = f"vflowopt-testing-{id(function)}"
    ALL_ATTENTION_FUNCTIONS[name] = function
    foreign = [module for module in modules if not hasattr(module, "config")]
    modules = [module for module in modules if hasattr(module, "config")]
    originals: list[Any] = [module.config for module in modules]
    try:
        for module, original in zip(modules, originals, strict=True):
            config = copy.copy(original)
            config._attn_implementation_internal = name  # the public setter would check the name against the hub
            module.config = config
        with ExitStack() as stack:
            for module in foreign:
                stack.enter_context(products_through(module, partial(_instead, function, module)))
            yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.config = original
        del ALL_ATTENTION_FUNCTIONS[name]


def _instead(
    function: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    product: Callable[[], Tensor],
) -> Tensor:
    """An attention function in place of torch's product, which is computed as well: others may look on."""
    product()
    output: Tensor = function(module, query, key, value, None, scaling=scaling)[0]
    return output.transpose(1, 2)


@contextmanager
def without_mixing(subject: Subject) -> Iterator[None]:
    """Vision attention that returns zeros: every visual token then depends on nothing but its own pixels.

    Attention to keys that are not its queries goes on: it pools the patches of a token.
    """

    def silent(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        views, heads, positions, _dim = query.shape
        if key.shape[2] != positions:
            return _eager(module)(module, query, key, value, *args, **kwargs)
        return query.new_zeros(views, positions, heads, value.shape[-1]), None

    with attention_function(list(vision_attentions(subject).values()), silent):
        yield


@contextmanager
def recorded_weights(module: nn.Module) -> Iterator[list[Tensor]]:
    """Let a module use upstream's eager attention, and collect its weights [views, heads, queries, keys] per call."""
    eager = _eager(module)
    weights: list[Tensor] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        output, attention = eager(*args, **kwargs)
        weights.append(attention.detach())
        return output, attention

    with attention_function([module], record):
        yield weights


def _eager(module: nn.Module) -> Any:
    """Upstream's eager attention, which every modeling file has of its own; what torch's product is, for others."""
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", _product)


def _product(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, scaling: float
) -> tuple[Tensor, Tensor]:
    weights = (scaling * query @ key.transpose(2, 3)).softmax(dim=-1)
    return (weights @ value).transpose(1, 2), weights
