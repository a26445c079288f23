"""Held-out questions prepared once and answered under any number of strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vflowopt import Strategy

    from ..dataset import Example


@dataclass(frozen=True)
class Score:
    """One strategy on all questions.

    Attributes:
        right: questions answered right.
        questions: questions asked.
        similarity: last-token similarity to the unpruned model, mean over questions.
        retention: achieved average retention, mean over questions.
    """

    right: int
    questions: int
    similarity: float
    retention: float


class QuestionBank:
    """Vision features and unpruned hidden states of questions, so that a strategy costs one decoder prefill each.

    Answers are one word, which is one token: the language model head at the last prompt position says it. This is what
    greedy ``generate`` says first; a test holds the two against each other.
    """

    def __init__(self, model: Any, processor: Any, examples: Sequence[Example], watch: Watch | None = None) -> None:
        from vflowopt.plugins import find_adapter

        self._model = model
        self._answers = [_token(processor, example.answer) for example in examples]
        inputs = (_inputs(processor, example) for example in (watch(examples) if watch else examples))
        self.evaluator: Any = find_adapter(model).evaluator(model, inputs, processor=processor)

    def unpruned(self) -> Score:
        """The unpruned model."""
        said = [self._word(sample.target) for sample in self.evaluator.samples]
        return Score(_matches(said, self._answers), len(said), 1.0, 1.0)

    def score(self, strategy: Strategy) -> Score:
        """One strategy."""
        import torch

        said, similarity, retention = [], 0.0, 0.0
        for sample in self.evaluator.samples:
            hidden, kept = self.evaluator.pruned_hidden(sample, strategy)
            said.append(self._word(hidden))
            similarity += float(torch.nn.functional.cosine_similarity(hidden[0, -1], sample.target[0, -1], dim=0))
            retention += kept
        count = len(said)
        return Score(_matches(said, self._answers), count, similarity / count, retention / count)

    def _word(self, hidden: Any) -> int:
        import torch

        with torch.no_grad():
            return int(self._model.lm_head(hidden[:, -1]).argmax())


Watch = Callable[["Sequence[Example]"], "Iterable[Example]"]
"""Wraps a sequence to show progress."""


def _inputs(processor: Any, example: Example) -> dict[str, Any]:
    return dict(processor(images=[example.image], text=[processor.prompt(example.question)]))


def _token(processor: Any, word: str) -> int:
    (token,) = processor.tokenizer(word)["input_ids"]
    return int(token)


def _matches(said: Sequence[int], answers: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(said, answers, strict=True))
