"""Do maps over patches reach the visual tokens that upstream makes of the same pixels?

Upstream is asked, not the adapter: with attention switched off in the vision tower, a visual token depends on its own
pixels only. Its gradient says which, and noise on just these pixels says which patches of the observed attention they
make and where the family's entropy map sees them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vflowopt.testing import fail, require
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.testing.batches import Batch, Sample, noise
from vflowopt_hf.testing.probe import Embedded, embed, other_pixels, pixel_names, without_mixing
from vflowopt_hf.testing.subject import Subject

SURELY, SURELY_NOT = 1e-4, 1e-6

Changed = Callable[[UnitContext, UnitContext], Tensor]
"""(before, after) -> float [views, patches], 1 where a unit's patch map has changed."""


def structural_tokens(subject: Subject) -> None:
    """Exactly the tokens that no pixel reaches are structural in the layout, and get 0 from ``to_tokens``."""
    for batch in subject.geometries():
        with without_mixing(subject), torch.no_grad():
            before = embed(subject, batch)
            after = embed(subject, batch, other_pixels(batch))
        for number, entry in enumerate(batch.placed):
            moved = _differ(after.features([entry]), before.features([entry])).numpy() > SURELY
            layout, context = entry.unit.layout, before.contexts[number]
            for token in np.flatnonzero(moved == layout.structural)[:1]:
                if moved[token]:
                    fail(
                        f"visual token {token} of {entry.modality} {number} moves with the pixels, but the layout "
                        f"calls it structural (-1, -1, -1): it would not be ranked by its importance"
                    )
                fail(
                    f"no pixel reaches visual token {token} of {entry.modality} {number} (a separator such as "
                    f"image_newline), but the layout gives it the place {layout.position[token].tolist()}: mark it "
                    f"structural, with position (-1, -1, -1)"
                )
            scored = _to_tokens(context, torch.ones(_map_shape(context))).numpy()
            for token in np.flatnonzero((scored != 0) & layout.structural)[:1]:
                fail(
                    f"to_tokens gives structural token {token} of {entry.modality} {number} the value "
                    f"{scored[token]:.3g} for a map of ones: a separator must get 0"
                )


def patches(subject: Subject) -> None:
    """Every position of the observed attention that is not a class token is a patch that moves with pixels."""
    for batch in subject.geometries():
        with without_mixing(subject), torch.no_grad():
            before, after = embed(subject, batch), embed(subject, batch, other_pixels(batch))
        for number, (old, new) in enumerate(zip(before.contexts, after.contexts, strict=True)):
            still = (_moved_patches(old, new) == 0).nonzero().tolist()
            if still:
                view, position = still[0]
                fail(
                    f"position {position} of view {view} in the observed vision attention never moves with the pixels "
                    f"of {batch.placed[number].modality} {number} (one of {len(still)}): it is a class token or a "
                    f"register, not a patch; Family.class_tokens is {subject.family.class_tokens_of(subject.model)}"
                )


def map_alignment(subject: Subject) -> None:
    """``to_tokens`` takes the importance of each patch to the visual tokens that upstream makes of its pixels."""
    _aligned(
        subject,
        _moved_patches,
        "patches {cells} of the observed attention (view, patch) make visual token {token} of {what} upstream, but "
        "to_tokens takes their importance to {reached}: it permutes the patches, or Unit.views or patch_order is wrong",
    )


def entropy_alignment(subject: Subject) -> None:
    """``Unit.entropy`` is in the order of the patch maps: noise on a visual token's pixels raises that token's."""
    _aligned(
        subject,
        _moved_entropy,
        "noise on the pixels of visual token {token} of {what} raises Unit.entropy at (view, patch) {cells}, which "
        "to_tokens takes to {reached}: the entropy map is in another order than the patches, or of other pixels",
    )


@dataclass(frozen=True, eq=False)
class _Probe:
    """A batch of noise, the same batch in black, and what upstream makes of it without mixing."""

    subject: Subject
    noisy: Batch
    black: Batch
    pixels: dict[str, Tensor]
    values: Tensor
    base: Embedded

    @classmethod
    def of(cls, subject: Subject, samples: Sequence[Sample]) -> "_Probe":
        noisy = subject.batch(*(_redrawn(sample, 1) for sample in samples))
        black = subject.batch(*(_redrawn(sample, 0) for sample in samples))
        pixels = {name: noisy.inputs[name].clone().requires_grad_() for name in pixel_names(noisy)}
        features = embed(subject, noisy, pixels).features(noisy.placed)
        direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            base = embed(subject, black)
        return cls(subject, noisy, black, pixels, (features * direction).sum(dim=1), base)

    def reveal(self, tokens: Tensor) -> Embedded:
        """Noise on the pixels of the chosen tokens, black elsewhere."""
        gradients = torch.autograd.grad(self.values[tokens].sum(), list(self.pixels.values()), retain_graph=True)
        mixed = {
            name: torch.where(gradient != 0, self.noisy.inputs[name], self.black.inputs[name])
            for name, gradient in zip(self.pixels, gradients, strict=True)
        }
        with torch.no_grad():
            return embed(self.subject, self.black, mixed)


def _aligned(subject: Subject, changed: Changed, complaint: str) -> None:
    """Each token gets a binary code; the tokens with a 1 in one place are revealed together, place by place."""
    cases = [[subject.image(index) for index in range(len(subject.case.image_sizes))]]
    cases += [[subject.several()]] * subject.case.several_images
    cases += [[subject.video(index)] for index in range(len(subject.case.video_sizes))]
    for samples in cases:
        with without_mixing(subject):
            probe = _Probe.of(subject, samples)
            codes = torch.arange(1, len(probe.values) + 1)
            for place in range(int(codes[-1]).bit_length()):
                after = probe.reveal(codes >> place & 1 == 1)
                moved = _differ(after.features(probe.black.placed), probe.base.features(probe.black.placed))
                reached = torch.cat(
                    [
                        _to_tokens(new, changed(old, new))
                        for old, new in zip(probe.base.contexts, after.contexts, strict=True)
                    ]
                )
                wrong = (moved > SURELY) & (reached < SURELY_NOT) | (moved < SURELY_NOT) & (reached > SURELY)
                if wrong.any():
                    _explain(probe, changed, complaint)
                    fail(f"to_tokens does not line up with the features of tokens {wrong.nonzero()[:, 0].tolist()}")


def _explain(probe: _Probe, changed: Changed, complaint: str) -> None:
    """Find the first token that does not line up on its own, and say where its patches go instead."""
    starts = np.cumsum([0, *(entry.unit.layout.tokens for entry in probe.black.placed)])
    for index in range(len(probe.values)):
        after = probe.reveal(torch.tensor([index]))
        moved = _differ(after.features(probe.black.placed), probe.base.features(probe.black.placed)) > SURELY
        maps = [changed(old, new) for old, new in zip(probe.base.contexts, after.contexts, strict=True)]
        reached = torch.cat([_to_tokens(new, own) for new, own in zip(after.contexts, maps, strict=True)]) > SURELY
        if torch.equal(moved, reached):
            continue
        number = int(np.searchsorted(starts, index, side="right")) - 1
        found = [(int(np.searchsorted(starts, at, side="right")) - 1, at) for at in reached.nonzero()[:, 0].tolist()]
        names = [f"{at - starts[unit]}" + (f" of unit {unit}" if unit != number else "") for unit, at in found]
        cells = [tuple(cell) for own in maps for cell in own.nonzero().tolist()]
        fail(
            complaint.format(
                cells=", ".join(map(str, cells[:8])) or "nowhere",
                token=index - starts[number],
                what=f"{probe.black.placed[number].modality} {number}",
                reached=f"visual token {', '.join(names[:8])}" if names else "no visual token",
            )
        )


def _redrawn(sample: Sample, loudness: int) -> Sample:
    """The sample with pure noise in its images and videos, or, with ``loudness`` 0, black ones."""
    media = tuple(loudness * noise(media.shape[:-1], seed) for seed, media in enumerate(sample.media))
    return Sample(media, sample.seed)


def _differ(after: Tensor, before: Tensor) -> Tensor:
    """Largest change of each token's features, relative to all features: [tokens]."""
    return (after - before).abs().amax(dim=1).detach() / before.abs().amax().detach()


def _moved_patches(before: UnitContext, after: UnitContext) -> Tensor:
    return torch.stack(
        [
            ((new - old).abs().amax(dim=(0, 2)) > SURELY_NOT * old.abs().max()).float()
            for old, new in zip(before.attention.keys, after.attention.keys, strict=True)
        ]
    )


def _moved_entropy(before: UnitContext, after: UnitContext) -> Tensor:
    shape, expected = tuple(after.entropy.shape), _map_shape(after)
    require(
        shape == expected,
        f"Unit.entropy has the shape {shape}, but the observed attention has [views, patches] {expected}: entropy is "
        f"taken of other pixels, or of patches of another size",
    )
    return ((after.entropy - before.entropy).abs() > SURELY_NOT).float()


def _map_shape(context: UnitContext) -> tuple[int, int]:
    return len(context.attention), context.attention.keys[0].shape[1]


def _to_tokens(context: UnitContext, patch_map: Tensor) -> Tensor:
    shape = tuple(patch_map.shape)
    try:
        tokens = context.to_tokens(patch_map)
    except Exception as error:
        fail(
            f"to_tokens cannot take a map of [views, patches] {shape}, as many as the observed attention has: "
            f"{type(error).__name__}: {error}; is Family.class_tokens right?",
            error,
        )
    require(
        tuple(tokens.shape) == (context.layout.tokens,),
        f"to_tokens makes shape {tuple(tokens.shape)} of a map {shape}, but the layout has {context.layout.tokens} "
        f"tokens",
    )
    return tokens
