"""Questions answered under many strategies: what ``vflowopt compare`` asks of a loaded model, besides the rest."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vflowopt.adapter import Inputs
from vflowopt.report import UnitReport
from vflowopt.strategies.strategy import Strategy


@dataclass(frozen=True)
class Answered:
    """One question, answered greedily after one prefill.

    Attributes:
        text: the answer.
        similarity: cosine similarity of the final-norm hidden state of the prompt's last token to the unpruned one;
            -1 where it is not finite.
        tokens: visual tokens of all units before pruning and after each stage.
        units: one entry per image or video; empty without pruning.
        flops: of the decoder's prefill.
        kv_cache_bytes: keys and values after the prefill.
    """

    text: str
    similarity: float
    tokens: tuple[int, ...]
    units: tuple[UnitReport, ...]
    flops: int
    kv_cache_bytes: int


class Panel(Protocol):
    """Questions whose images are encoded once, to be answered under any number of strategies."""

    def __len__(self) -> int:
        """Number of questions."""
        ...

    def answer(self, question: int, strategy: Strategy | None) -> Answered:
        """Answer one question, pruned, or unpruned with ``None``.

        Raises:
            BudgetError, StrategyError, ImportanceError: the strategy does not fit the model or the question's images.
        """
        ...


@runtime_checkable
class AnsweringModel(Protocol):
    """What a :class:`vflowopt.adapter.LoadedModel` offers if ``vflowopt compare`` is to work; optional."""

    def panel(self, questions: Iterable[Inputs], max_new_tokens: int, *, keep: bool = True) -> Panel:
        """Answer questions unpruned and get ready to answer them pruned.

        Args:
            questions: model inputs of batch size 1 with an image or video each.
            max_new_tokens: length of an answer at most.
            keep: keep vision features in memory; otherwise every answer encodes its images again.

        Raises:
            InputError: a question has no image or video.
        """
        ...
