"""``--model_args`` and a task's generation options, as vflowopt understands them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflowopt.errors import InputError
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.strategy import Strategy

UNPRUNED = "unpruned"


def read_strategy_option(text: str | None, options: Mapping[str, object]) -> Callable[[int], Strategy] | None:
    """What ``strategy=`` means: ``None`` for the unpruned model, else the strategy for a number of decoder layers.

    Args:
        text: a file, ``preset:NAME``, ``SCORER@BUDGET``, ``"unpruned"`` or ``None``.
        options: further model arguments. lmms-eval splits its arguments at commas, so
            ``strategy=calibrated-attention@0.1,cell=3`` arrives in two parts, which are joined here again.

    Raises:
        InputError: an argument that is neither of the model nor of the strategy.
        StrategyError, BudgetError: see :func:`vflowopt.strategies.reading.read_strategy`.
    """
    named = text is not None and text != UNPRUNED
    specification = named and "@" in str(text) and not str(text).startswith("preset:") and not Path(str(text)).exists()
    if options and not specification:
        raise InputError(
            f"the vflowopt model has no argument {', '.join(sorted(options))}; it has pretrained, strategy, device, "
            f"dtype, attn_implementation and frames, and options of a strategy given as SCORER@BUDGET"
        )
    if text is None or text == UNPRUNED:
        return None
    return read_strategy(",".join([text, *(f"{name}={value}" for name, value in options.items())]))


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated: greedily.

    Attributes:
        max_new_tokens: its length at most.
        until: texts that end it; they are cut off.
    """

    max_new_tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Decoding":
        """From a task's ``generation_kwargs``.

        Raises:
            InputError: the task samples or searches beams.
        """
        if options.get("do_sample") and float(options.get("temperature") or 0) > 0:
            raise InputError(
                f"the task samples with temperature {options['temperature']}; the vflowopt model answers greedily: "
                f"pass --gen_kwargs temperature=0,do_sample=False"
            )
        if int(options.get("num_beams") or 1) > 1:
            raise InputError(f"the task searches {options['num_beams']} beams; pass --gen_kwargs num_beams=1")
        until = options.get("until") or ()
        ends = (until,) if isinstance(until, str) else tuple(until)
        return cls(int(options.get("max_new_tokens") or 1024), tuple(end for end in ends if end))

    def cut(self, text: str) -> str:
        """The text up to the first end."""
        for end in self.until:
            text = text.partition(end)[0]
        return text
