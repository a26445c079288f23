"""What of the final hidden states pruned and unpruned model are compared by, and how (paper Eq. 8 and Table 9)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import UnsupportedOperationError

Read = Callable[[Tensor, int], Tensor]
"""Takes hidden states [1, rows, features] and the number of rows after the last visual token; gives what is compared,
[1, read, features]: as many rows whatever is pruned."""


def similarity(read: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows of the cosine similarity, a float32 scalar; both are [1, read, features]."""
    return nn.functional.cosine_similarity(read.float(), target.float(), dim=-1).mean()


def agreement(read: Tensor, target: Tensor) -> Tensor:
    """exp(-KL) of the logarithms of probabilities, a float32 scalar in [0, 1]; both are [1, 1, tokens]."""
    return torch.exp(-(target.exp() * (target - read)).sum(dim=-1).clamp(min=0.0)).mean()


def _last_token(hidden: Tensor, tail: int) -> Tensor:  # noqa: ARG001
    return hidden[:, -1:]


def _first_token(hidden: Tensor, tail: int) -> Tensor:
    """The first token after the visual ones: those before them cannot see an image and never change."""
    first = hidden.shape[1] - tail
    return hidden[:, first : first + 1]


def _mean_pooling(hidden: Tensor, tail: int) -> Tensor:  # noqa: ARG001
    return hidden.float().mean(dim=1, keepdim=True)


def _top_tokens(hidden: Tensor, tail: int) -> Tensor:
    """The last three tokens (fewer, if fewer follow the visual ones), each against its counterpart."""
    return hidden[:, -min(3, tail) :]


@dataclass(frozen=True)
class Objective:
    """How near a pruned forward comes to the unpruned one: 1 is a perfect match.

    Attributes:
        rows: which rows are looked at.
        compare: what of the pruned and of the unpruned rows gives the score.
        is_centred: the mean of the unpruned rows over all samples is taken from both first: what all samples have in
            common tells nothing.
        is_predicted: instead of hidden states, the logarithms of the next token's probabilities are compared.
    """

    rows: Read
    compare: Callable[[Tensor, Tensor], Tensor] = similarity
    is_centred: bool = False
    is_predicted: bool = False

    def reader(self, model: Any) -> Read:
        """What gives that which is compared.

        Raises:
            UnsupportedOperationError: the model has no output embeddings from which to predict.
        """
        if not self.is_predicted:
            return self.rows
        head = model.get_output_embeddings()
        if head is None:
            raise UnsupportedOperationError(
                f"{type(model).__name__} has no output embeddings to predict the next token with; compare hidden "
                f"states: objective 'last-token'"
            )
        return lambda hidden, tail: torch.log_softmax(head(self.rows(hidden, tail)).float(), dim=-1)


OBJECTIVES: dict[str, Objective] = {
    "last-token": Objective(_last_token),
    "first-token": Objective(_first_token),
    "mean-pooling": Objective(_mean_pooling),
    "top-3-tokens": Objective(_top_tokens),
    "centred-last-token": Objective(_last_token, is_centred=True),
    "next-token": Objective(_last_token, agreement, is_predicted=True),
}
"""By the names that users give."""
