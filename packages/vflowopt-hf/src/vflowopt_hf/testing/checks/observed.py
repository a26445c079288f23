"""Is the observed attention that of the last vision layer whose output upstream uses, and is it read right?"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vflowopt.testing import require
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.testing.batches import Batch
from vflowopt_hf.testing.probe import embed, recorded_weights, vision_attentions
from vflowopt_hf.testing.subject import Subject


def observed_layer(subject: Subject) -> None:
    """The observed vision attention reaches the visual tokens, and no later one of its class does."""
    batch = subject.batch(subject.image())
    modules = vision_attentions(subject)
    observed = subject.family.vision_attention(subject.model)
    names = [name for name, module in modules.items() if module is observed]
    require(names, f"Family.vision_attention names a {type(observed).__name__} that is no part of the vision tower")
    outputs: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(_Keep(outputs, name)) for name, module in modules.items()]
    try:
        features = embed(subject, batch).features(batch.placed)
        order, tensors = list(outputs), list(outputs.values())
        direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad((features * direction).sum(), tensors, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    used = [name for name, gradient in zip(order, gradients, strict=True) if gradient is not None and gradient.any()]
    require(
        names[0] in used,
        f"the output of the observed vision attention, {names[0]}, never reaches the visual tokens; the last one that "
        f"does is {used[-1] if used else 'none'}: Family.vision_attention names too late a layer",
    )
    if subject.case.observed_last:
        require(
            used[-1] == names[0],
            f"the observed attention is {names[0]}, but {used[-1]} comes after it and reaches the visual tokens: "
            f"Family.vision_attention names too early a layer (or set Case.observed_last=False)",
        )


class _Keep:
    def __init__(self, outputs: dict[str, Tensor], name: str) -> None:
        self._outputs, self._name = outputs, name

    def __call__(self, _module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self._outputs[self._name] = output if isinstance(output, Tensor) else output[0]


def attention_weights(subject: Subject) -> None:
    """Attention received is the column sums of upstream's eager weights, head mean, class tokens excluded."""
    family, model = subject.family, subject.model
    observed, first = family.vision_attention(model), family.class_tokens_of(model)
    for batch in subject.geometries():
        with recorded_weights(observed) as weights, torch.no_grad():
            contexts = embed(subject, batch).contexts
        everything = _unpacked([view for call in weights for view in call], batch, contexts, first)
        for number, (entry, context) in enumerate(zip(batch.placed, contexts, strict=True)):
            views = [view[:, first:, first:].mean(dim=0) for view in everything[entry.unit.views]]
            order = entry.unit.places
            _compare(context, views if order is None else [view[order][:, order] for view in views], first, number)


def _unpacked(weights: list[Tensor], batch: Batch, contexts: Sequence[UnitContext], class_tokens: int) -> list[Tensor]:
    """Weights [heads, positions, positions] of each view; views that upstream packs into one call are cut apart.

    Upstream's mask gives no weight outside the views. If the adapter's sizes cut elsewhere, some weight is lost.
    """
    units = sorted(zip(batch.placed, contexts, strict=True), key=lambda unit: unit[0].unit.views.start)
    lengths = [class_tokens + keys.shape[1] for _, context in units for keys in context.attention.keys]
    if len(weights) != 1 or len(lengths) == 1 or sum(lengths) != weights[0].shape[-1]:
        return weights
    rows = weights[0].split(lengths, dim=1)
    return [own.split(lengths, dim=2)[view] for view, own in enumerate(rows)]


def _compare(context: UnitContext, matrices: Sequence[Tensor], class_tokens: int, number: int) -> None:
    expected = torch.stack([matrix.double().sum(dim=0) for matrix in matrices])
    got = context.attention.received()
    where = f"of unit {number}"
    require(
        got.shape == expected.shape,
        f"the attention captured {where} has {tuple(got.shape)} [views, patches], upstream's weights "
        f"{tuple(expected.shape)}: Unit.views or Family.class_tokens is wrong",
    )
    difference = (got - expected).abs().max()
    require(
        difference <= 1e-4,
        f"attention received {where} differs from the column sums of upstream's eager weights by {difference:.2g}: "
        f"the views are another unit's, or patch_order is wrong",
    )
    chosen = torch.rand(expected.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    rows = torch.stack([matrix[keep].double().sum(dim=0) for matrix, keep in zip(matrices, chosen, strict=True)])
    difference = (context.attention.received(chosen) - rows).abs().max()
    require(difference <= 1e-4, f"attention received from some queries {where} is off by {difference:.2g}")
    if not class_tokens:
        total, queries = float(got.sum()), expected.numel()
        require(abs(total - queries) <= 1e-3 * queries, f"attention received {where} sums to {total}, not {queries}")
