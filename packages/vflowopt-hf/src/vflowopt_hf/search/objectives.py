"""What of the final hidden states pruned and unpruned model are compared by (paper Eq. 8 and Table 9)."""

from collections.abc import Callable

from torch import Tensor, nn

Read = Callable[[Tensor, int], Tensor]
"""Takes hidden states [1, rows, features] and the number of rows after the last visual token; gives what is compared,
[1, read, features]: as many rows whatever is pruned."""


def similarity(read: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows of the cosine similarity, a float32 scalar; both are [1, read, features]."""
    return nn.functional.cosine_similarity(read.float(), target.float(), dim=-1).mean()


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


OBJECTIVES: dict[str, Read] = {
    "last-token": _last_token,
    "first-token": _first_token,
    "mean-pooling": _mean_pooling,
    "top-3-tokens": _top_tokens,
}
"""By the names that users give."""
