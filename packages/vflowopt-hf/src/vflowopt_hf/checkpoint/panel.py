"""Questions encoded once and answered under any number of strategies (:class:`vflowopt.compare.panel.Panel`)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt import Strategy
from vflowopt.adapter import Inputs
from vflowopt.compare.panel import Answered
from vflowopt.errors import InputError
from vflowopt_hf.decoder.kv_cache import kv_bytes, num_layers
from vflowopt_hf.family import Family
from vflowopt_hf.measure.flops import prefill_flops
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.pruning.requirements import captures_more, check_fits
from vflowopt_hf.pruning.session import Session, refuse_nesting
from vflowopt_hf.vision.encoders import MODALITIES, Encoding, tap_encoders

PIXELS = frozenset({"pixel_values", "pixel_values_images", "pixel_values_videos", "image_patches"})
"""Names under which upstream's ``generate`` takes pixels; next to precomputed features it refuses them."""


@dataclass(eq=False)
class Seen:
    """What a generation's prefill did.

    Attributes:
        features: the encoders' outputs by modality; empty where the model takes none.
        last: final-norm hidden state of the prompt's last token [features].
        rows: rows of the decoder's output, 0 before it ran.
    """

    features: dict[str, Any] = field(default_factory=dict)
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    rows: int = 0


@dataclass(frozen=True, eq=False)
class Question:
    """A question and what its unpruned prefill left behind.

    Attributes:
        inputs: what ``generate`` takes.
        features: the encoders' outputs by modality, which come in place of pixels; empty if they are not kept.
        encodings: what the vision attention did while they were made.
        target: final-norm hidden state of the prompt's last token [features].
        unpruned: the model's own answer.
    """

    inputs: Inputs
    features: Mapping[str, Any]
    encodings: tuple[Encoding, ...]
    target: Tensor
    unpruned: Answered


class QuestionPanel:
    """Answers by the model's own ``generate``; encodes every image once, at construction.

    Args:
        family: of the model.
        model: the model; not changed.
        statistics: pixel normalisation to invert for patch entropy.
        generate: the answer to inputs, in at most so many new tokens.
        questions: processor outputs of batch size 1 with at least one image or video each.
        max_new_tokens: length of an answer at most.
        keep: keep the encoders' outputs and the observed attention on the model's device; otherwise every answer
            encodes its images again.

    Raises:
        InputError: a question has no image or video.
        PruningStateError: the model is being pruned.
    """

    def __init__(
        self,
        family: Family,
        model: Any,
        statistics: PixelStatistics,
        generate: Callable[[Inputs, int], str],
        questions: Iterable[Inputs],
        max_new_tokens: int,
        *,
        keep: bool = True,
    ) -> None:
        self._family, self._model, self._statistics = family, model, statistics
        self._generate, self._max_new_tokens, self._keep = generate, max_new_tokens, keep
        refuse_nesting(self._family, self._model)
        self._questions = [self._ask(number, inputs) for number, inputs in enumerate(questions, start=1)]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self._questions)

    def answer(self, question: int, strategy: Strategy | None) -> Answered:
        """See :meth:`vflowopt.compare.panel.Panel.answer`."""
        asked = self._questions[question]
        if strategy is None:
            return asked.unpruned
        check_fits(self._family, self._model, strategy)
        inputs = asked.inputs
        if asked.features and not captures_more(strategy):
            bare = {name: value for name, value in inputs.items() if name not in PIXELS}
            inputs = {**bare, "mm_encoder_outputs": dict(asked.features)}
        with (
            Session(self._family, self._model, strategy, self._statistics) as session,
            self._watched() as seen,
        ):
            session.recall(asked.encodings)
            text = self._generate(inputs, self._max_new_tokens)
            report = session.report
        similarity = float(nn.functional.cosine_similarity(seen.last.float(), asked.target.float(), dim=0))
        stages = zip(*(unit.counts for unit in report.units), strict=True)
        return Answered(
            text=text,
            similarity=similarity if math.isfinite(similarity) else -1.0,
            tokens=(sum(unit.tokens for unit in report.units), *(sum(counts) for counts in stages)),
            units=report.units,
            flops=self._flops(report.sequence_lengths),
            kv_cache_bytes=report.kv_cache_bytes,
        )

    def _ask(self, number: int, inputs: Inputs) -> Question:
        """Answer one question unpruned, and keep what was encoded on the way."""
        with tap_encoders(self._family, self._model, None if self._keep else 1) as tap, self._watched() as seen:
            text = self._generate(inputs, self._max_new_tokens)
            encodings = tap.since(0)
            known = tap.find(seen.features)
        if not encodings:
            raise InputError(f"question {number} has no image or video, so there is nothing to prune")
        lengths = [seen.rows] * num_layers(self._family, self._model)
        visual = sum(unit.layout.tokens for encoding in encodings for unit in encoding.units)
        cached = kv_bytes(self._family, self._model, lengths)
        unpruned = Answered(text, 1.0, (visual,), (), self._flops(lengths), cached)
        if not (self._keep and seen.features):
            return Question(inputs, {}, (), seen.last, unpruned)
        return Question(inputs, seen.features, tuple(known), seen.last, unpruned)

    @contextmanager
    def _watched(self) -> Iterator[Seen]:
        """Look at the first forward of backbone and decoder inside the block."""
        seen = Seen()

        def enter(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not seen.rows:
                given = kwargs.get("mm_encoder_outputs") or {}
                seen.features = {name: given[name] for name in MODALITIES if given.get(name) is not None}

        def leave(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            if not seen.rows:
                hidden = output.last_hidden_state
                seen.last, seen.rows = hidden[0, -1].clone(), int(hidden.shape[1])

        backbone, decoder = self._family.backbone(self._model), self._family.decoder(self._model)
        handles = (
            backbone.register_forward_pre_hook(enter, with_kwargs=True),
            decoder.register_forward_hook(leave),
        )
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _flops(self, lengths: Iterable[int]) -> int:
        return prefill_flops(self._family.decoder(self._model), tuple(lengths))
