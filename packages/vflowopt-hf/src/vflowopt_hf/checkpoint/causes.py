"""What upstream's exceptions say, told in one line."""

import pickle
import re

_LONGEST = 120


def cause(error: BaseException) -> str:
    """The message without line breaks and colours, cut where it gets long; with the type where that says more."""
    if isinstance(error, pickle.UnpicklingError):  # whose message recommends to load whatever it is
        return "its weights are a pickle that is damaged or holds more than tensors; convert them to safetensors"
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()).rstrip(".")
    if not text or not isinstance(error, (OSError, ValueError, RuntimeError, ImportError)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
