"""From a backbone's inputs to placed plans: find units, score them, plan them."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vflowopt import Strategy, TokenLayout
from vflowopt.arrays import HostBools, HostInts, to_numpy
from vflowopt.components import Score
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.plans.planning import PlanDraft, check_importance
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.rows import PlacedPlan
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.class_rows import ClassRows
from vflowopt_hf.vision.encoders import Encoding
from vflowopt_hf.vision.unit_joining import take_units


@dataclass(frozen=True, eq=False)
class UnitContext:
    """A :class:`vflowopt.components.ScoringContext` over one encoded unit.

    Attributes:
        unit: what was encoded.
        attention: the observed attention over the unit's views.
        class_rows: class attention of layers before the observed one, over the same views.
        statistics: pixel normalisation to invert for patch entropy.
        embeddings: gives the unit's rows of what enters the decoder, [N, features].
        prompt: gives the rows of the text after the unit, [texts, features].
    """

    unit: Unit
    attention: TorchAttention
    class_rows: ClassRows
    statistics: PixelStatistics
    embeddings: Callable[[], Tensor]
    prompt: Callable[[], Tensor]

    @property
    def layout(self) -> TokenLayout:
        """Places of the unit's visual tokens."""
        return self.unit.layout

    @cached_property  # a search scores the same units again and again
    def entropy(self) -> Tensor:
        """Patch entropy, float32 [views, patches]."""
        return self.unit.entropy(self.statistics)

    @property
    def class_attention(self) -> Tensor:
        """Attention of the class token to the patches, float32 [views, patches]."""
        return self.attention.of_class_token

    @property
    def saliency(self) -> Tensor:
        """Attention of the class token, or the mean received from all patches: float32 [views, patches]."""
        if self.attention.has_class_token:
            return self.class_attention
        received = self.attention.received()
        return received / received.shape[-1]

    @property
    def vision_depth(self) -> int:
        """Vision layers up to the observed one."""
        return self.class_rows.depth

    def class_attentions(self, layers: int) -> Tensor:
        """Attention of the class token in the last layers up to the observed one, float32 [layers, views, patches]."""
        return self.class_rows.up_to(self.class_attention, layers)

    @property
    def keys(self) -> Tensor:
        """Keys of the patches, mean over heads: float32 [views, patches, head_dim]."""
        return torch.stack([view.float().mean(dim=0) for view in self.attention.keys])

    @property
    def features(self) -> Tensor:
        """Embeddings of the visual tokens as they enter the decoder, float32 [N, features]."""
        return self.embeddings().to(self.attention.device, torch.float32)

    @property
    def text(self) -> Tensor:
        """Embeddings of the prompt's text after the unit, float32 [texts, features]."""
        return self.prompt().to(self.attention.device, torch.float32)

    def fresh(self) -> "UnitContext":
        """The same unit with nothing computed yet, to measure what scoring costs."""
        return replace(self, attention=self.attention.views(slice(None)))

    def without_pixels(self) -> "UnitContext":
        """The same unit with its entropy computed and its pixels forgotten."""
        entropy = self.entropy
        return replace(self, unit=replace(self.unit, entropy=lambda _: entropy))

    def place(self, host: npt.NDArray[Any]) -> Tensor:
        """A host array as a tensor where the attention is."""
        return torch.from_numpy(host).to(self.attention.device, non_blocking=True)

    def to_tokens(self, patch_map: Tensor) -> Tensor:
        """float32 [N] from [views, patches]."""
        return self.unit.to_tokens(patch_map.float())


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit with its place in the batch: sample, and the row of each of its visual tokens.

    Attributes:
        context: what scorers see of it.
        sample: index in the batch.
        rows: int64 [N].
        texts: int64 [texts], rows of the prompt's text after the unit; of its last token if there is none.
    """

    context: UnitContext
    sample: int
    rows: HostInts
    texts: HostInts

    def mapped(self, change: Callable[[Tensor], Tensor], embeddings: Tensor) -> "PlacedUnit":
        """The same unit with query and key changed, for example moved, and in other embeddings."""
        attention = self.context.attention.mapped(change)
        own, prompt = (partial(_take, embeddings, self.sample, rows) for rows in (self.rows, self.texts))
        return replace(self, context=replace(self.context, attention=attention, embeddings=own, prompt=prompt))


@dataclass(frozen=True, eq=False)
class Prefill:
    """A forward that brings visual tokens.

    Attributes:
        units: in prompt order (sample, then row).
        present: bool [batch, queries], False for padding.
    """

    units: tuple[PlacedUnit, ...]
    present: HostBools


def place_units(
    placeholders: Mapping[str, int],
    encodings: Sequence[Encoding],
    input_ids: object,
    attention_mask: object,
    statistics: PixelStatistics,
    embeddings: Tensor,
    following: int = 0,
) -> Prefill:
    """Find the visual tokens of encoded units in a prompt.

    Args:
        placeholders: token id of each modality.
        encodings: at most one per modality.
        input_ids: int64 [batch, queries].
        attention_mask: [batch, past + queries], or None.
        statistics: pixel normalisation to invert for patch entropy.
        embeddings: [batch, queries, features], what enters the decoder.
        following: tokens at the end of every sample that come after its prompt.

    Raises:
        InputError: the prompt's placeholders do not match the encoded units.
        UnsupportedOperationError: no token ids, or a mask that is not 2-dimensional.
    """
    if not isinstance(input_ids, Tensor):
        raise UnsupportedOperationError("pruning finds visual tokens by input_ids; pass them, not inputs_embeds")
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.ndim == 2):
        raise UnsupportedOperationError(
            "pruning needs a 2-dimensional attention_mask, as the processor makes it, or none"
        )
    ids: HostInts = input_ids.cpu().numpy()
    batch, queries = ids.shape
    present = np.ones(ids.shape, dtype=bool)
    if attention_mask is not None:
        present = attention_mask[:, -queries:].cpu().numpy().astype(bool)
    textual = present & ~np.isin(ids, list(placeholders.values()))
    placed: list[PlacedUnit] = []
    for encoding in encodings:
        copies = encoding.copies  # beams repeat each sample that many times in a row
        if batch % copies:
            raise _mismatch(encoding, ids, placeholders)
        parts = deque(encoding.units)
        for sample in range(0, batch, copies):
            rows = np.flatnonzero(ids[sample] == placeholders[encoding.modality])
            for unit in take_units(parts, len(rows), encoding.tokens_per_unit(ids[sample])):
                attention = encoding.attention.views(unit.views, unit.patch_order)
                class_rows = encoding.class_rows.views(unit.views, unit.patch_order)
                own, rows = np.split(rows, [unit.layout.tokens])
                texts = _texts_after(own, textual[sample], present[sample], following)
                taken, prompt = (partial(_take, embeddings, sample, some) for some in (own, texts))
                context = UnitContext(unit, attention, class_rows, statistics, taken, prompt)
                placed.extend(PlacedUnit(context, sample + copy, own, texts) for copy in range(copies))
            if len(rows):
                raise _mismatch(encoding, ids, placeholders)
        if parts:
            raise _mismatch(encoding, ids, placeholders)
    placed.sort(key=lambda entry: (entry.sample, int(entry.rows[0])))
    return Prefill(tuple(placed), present)


def require_no_placeholders(placeholders: Mapping[str, int], input_ids: Tensor) -> None:
    """Check that a prompt that comes without anything visual has no place for it.

    Raises:
        InputError: it has.
    """
    for modality, token in placeholders.items():
        found = int((input_ids == token).sum())
        if found:
            raise InputError(
                f"the prompt holds {found} {modality} tokens, but neither pixels nor features came with it; pass all "
                f"that the processor returned"
            )


def _texts_after(unit: HostInts, textual: HostBools, present: HostBools, following: int) -> HostInts:
    """Rows of a prompt's text after the rows of a unit, or of the prompt's last token: int64 [texts]."""
    rows = np.flatnonzero(present)
    last = rows[max(0, len(rows) - 1 - following) :][:1]
    texts = np.flatnonzero(textual)
    texts = texts[(texts > unit[-1]) & (texts <= last)]
    return texts if len(texts) else last


def _take(embeddings: Tensor, sample: int, rows: HostInts) -> Tensor:
    return embeddings[sample, torch.from_numpy(rows).to(embeddings.device, non_blocking=True)]


def _mismatch(encoding: Encoding, ids: HostInts, placeholders: Mapping[str, int]) -> InputError:
    found = int((ids == placeholders[encoding.modality]).sum())
    expected = encoding.copies * sum(unit.layout.tokens for unit in encoding.units)
    return InputError(
        f"the prompt holds {found} {encoding.modality} tokens in this forward, but the pixels make {expected}, as "
        f"whole units per sample; pass prompts as the processor made them (while pruning, prefill cannot be chunked)"
    )


@dataclass(frozen=True, eq=False)
class ScoredUnit:
    """A unit's plan as far as it is known before the LLM, its place, and what the scorer had to say about it."""

    draft: PlanDraft
    sample: int
    rows: HostInts
    score: Score

    @property
    def placed(self) -> PlacedPlan:
        """The plan in its place."""
        return PlacedPlan(self.draft.plan, self.sample, self.rows)

    def require_finite(self) -> None:
        """Check that the importance was finite, which waits for it.

        Raises:
            ImportanceError: it was not.
        """
        check_importance(self.score.importance, self.draft.layout)

    def details(self) -> dict[str, tuple[int, ...]]:
        """The scorer's details on the host."""
        return {name: tuple(np.atleast_1d(to_numpy(value)).tolist()) for name, value in self.score.details.items()}


def plan_units(strategy: Strategy, units: Sequence[PlacedUnit], *, wait: bool = True) -> list[ScoredUnit]:
    """Score and plan every unit (paper Algorithm 1); beams of one sample share the plan.

    Args:
        strategy: the strategy.
        units: of a batch.
        wait: check that importance is finite, which waits for it; else :meth:`ScoredUnit.require_finite` does.

    Raises:
        ImportanceError: an importance map is not finite or has the wrong shape.
        BudgetError: a stage keeps fewer tokens than a unit's structural ones.
    """
    made: dict[UnitContext, tuple[PlanDraft, Score]] = {}
    for context in dict.fromkeys(placed.context for placed in units):
        # Counts first: an infeasible budget is reported before anything is computed.
        counts = strategy.schedule.counts(context.layout.tokens)
        for count in counts:
            context.layout.require(count)
        with torch.no_grad():
            score = strategy.scorer.score_retaining(context, counts[0])
            made[context] = strategy.draft(score.importance, context.layout, context, wait=wait), score
    return [
        ScoredUnit(draft, placed.sample, placed.rows, score)
        for placed in units
        for draft, score in (made[placed.context],)
    ]
