"""How a model is called while it is pruned: arguments by name, and those that are refused."""

import inspect
from typing import Any

from torch import Tensor, nn

from vflowopt.errors import UnsupportedOperationError


def arguments_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's forward by their names."""
    return {**inspect.signature(module.forward).bind_partial(*args).arguments, **kwargs} if args else kwargs


def tokens_after_prompt(logits_to_keep: Any) -> int:
    """How many tokens at the end of a forward are no longer the prompt's.

    Who asks for the logits of the last k tokens wants to know what follows each of them: the first of them is the
    prompt's last token, and the others are drafts, or an answer that is to be rated.

    Args:
        logits_to_keep: the model's argument, 0 or ``None`` for all logits.
    """
    return max(0, int(logits_to_keep or 0) - 1)


def refuse_embeddings(embeddings: Tensor | None) -> None:
    """Check that embeddings are not those of a prompt: which of them are visual, nobody could tell.

    Raises:
        UnsupportedOperationError: they are.
    """
    if embeddings is not None and embeddings.shape[1] > 1:
        raise UnsupportedOperationError(
            f"{embeddings.shape[1]} tokens came as inputs_embeds, where visual tokens cannot be found; call the model "
            f"with input_ids and pixel values, or features made in this block (mm_encoder_outputs)"
        )


def refuse_full_length_arguments(arguments: dict[str, Any]) -> None:
    """Check that nothing has a row per token, of which a pruned forward has fewer.

    Raises:
        UnsupportedOperationError: something has.
    """
    if arguments.get("labels") is not None:
        raise UnsupportedOperationError(
            "labels= does not fit the shortened outputs of a pruned model; drop it, and pass logits_to_keep=k + 1 to "
            "rate an answer of k tokens, whose logits are whole"
        )
    if isinstance(arguments.get("logits_to_keep"), Tensor):
        raise UnsupportedOperationError("a tensor logits_to_keep counts unpruned positions; pass an integer instead")
