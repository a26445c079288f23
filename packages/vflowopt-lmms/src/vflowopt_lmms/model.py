"""The class that lmms-eval drives: any checkpoint that an installed adapter supports, pruned by one strategy."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger

from vflowopt.adapter import Pruning, strategy_of
from vflowopt.cli.console import tracked
from vflowopt.cli.media import FRAMES
from vflowopt.cli.models import choose
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt_lmms.conversation import read_messages
from vflowopt_lmms.options import UNPRUNED, Decoding, read_strategy_option
from vflowopt_lmms.tally import Tally


class VFlowOpt(lmms):
    """Answers one question at a time, greedily.

    Args:
        pretrained: a directory, hub id or named model, as ``vflowopt --model`` takes it.
        strategy: a file, ``preset:NAME``, ``SCORER@BUDGET``, or ``unpruned``; as ``vflowopt --strategy`` takes it.
        device: by default CUDA if there is one, else the CPU.
        dtype: ``auto``, or a torch dtype's name.
        attn_implementation: as in transformers.
        frames: frames of a video to use at most, evenly spaced.
        batch_size: 1.
        strategy_options: options of a strategy given as ``SCORER@BUDGET``.

    Raises:
        InputError: an argument is missing, unknown, or not what it may be.
        StrategyError, BudgetError: the strategy cannot be read or does not fit the model.
        UnsupportedModelError: no installed adapter supports the model.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        strategy: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        frames: int = FRAMES,
        batch_size: int | str = 1,
        **strategy_options: object,
    ) -> None:
        super().__init__()
        if not pretrained:
            raise InputError("the vflowopt model needs a checkpoint: --model_args pretrained=DIRECTORY_OR_HUB_ID,...")
        if str(batch_size) != "1":
            raise InputError(f"the vflowopt model answers one question at a time: --batch_size is {batch_size}, use 1")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("the vflowopt model runs in one process; start lmms_eval without accelerate or torchrun")
        strategy_for = read_strategy_option(strategy, strategy_options)
        chosen = choose(str(pretrained))
        self._loaded = chosen.load(device, dtype, attn_implementation)
        loaded = self._loaded
        self._strategy = None if strategy_for is None else strategy_of(loaded.adapter, loaded.model, strategy_for)
        self._frames = int(frames)
        self._reordered: set[str] = set()
        logger.info(f"vflowopt: {chosen.label} with {strategy or UNPRUNED}")

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer questions; afterwards lmms-eval's throughput summary tells retention and visual tokens per question.

        Args:
            requests: their ``args`` are context, ``doc_to_messages``, generation options, number of the document,
                task and split.

        Raises:
            InputError: a task asks for what this model cannot do; no answer is made up for a question that fails.
        """
        tally = Tally()
        with self._pruned() as pruning:
            answers = [self._answer(request.args, pruning, tally) for request in tracked(requests, "answering")]
        log_metrics(tally.seconds, tally.tokens, tally.speed, tally.pruning())
        return answers

    def _pruned(self) -> AbstractContextManager[Pruning | None]:
        if self._strategy is None:
            return nullcontext()
        return self._loaded.adapter.prune(self._loaded.model, self._strategy, processor=self._loaded.processor)

    def _answer(self, arguments: Sequence[Any], pruning: Pruning | None, tally: Tally) -> GenerationResult:
        context, to_messages, options, number, task, split = arguments
        decoding = Decoding.of(options)
        turn = read_messages(to_messages(self.task_dict[task][split][number]), self._frames)
        if turn.reordered and task not in self._reordered:
            self._reordered.add(task)
            logger.warning(f"vflowopt: {task} puts text before or between images; they are put before the text")
        inputs = turn.question.prepare(self._loaded)
        start = time.perf_counter()
        answer = decoding.cut(self._loaded.generate(inputs, decoding.max_new_tokens))
        tally.seconds += time.perf_counter() - start
        if pruning is not None and (turn.question.sources or turn.question.videos):
            tally.reports.append(pruning.report)
        length = len(self._loaded.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
        tally.tokens += length
        self.cache_hook.add_partial("generate_until", (context, options), answer)
        return GenerationResult(answer, TokenCounts(input_tokens=_length(inputs), output_tokens=length))

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Refused.

        Raises:
            UnsupportedOperationError: always.
        """
        raise UnsupportedOperationError(_only_answers(requests))

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Refused.

        Raises:
            UnsupportedOperationError: always.
        """
        raise UnsupportedOperationError(_only_answers(requests))

    def clean(self) -> None:
        """Keep the model: lmms-eval calls this after the last question, its caller may ask more."""


def _length(inputs: Mapping[str, Any]) -> int:
    return int(inputs["input_ids"].shape[-1])


def _only_answers(requests: Sequence[Instance]) -> str:
    tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
    return f"the vflowopt model generates answers to single questions only, which does not do for {tasks}"
