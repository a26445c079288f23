"""The same questions asked of a model inside vLLM, in this process, and of the same model on transformers."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image
from transformers import AutoProcessor

from vflowopt import GridRecycler, Progressive, PruningPlan, Strategy, prune
from vflowopt.scorer import CalibratedAttention

GENERATED = 4
LENGTH = 5120
IMAGE = "<image>"


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with a placeholder for each of its images."""

    prompt: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, eq=False)
class Reply:
    """Greedy tokens, of which the end of an answer is no end; tokens of the prompt; plans of its images."""

    tokens: list[int]
    prompt: int
    plans: tuple[PruningPlan, ...] = ()


def strategy_at(retention: float) -> Strategy:
    """One with entropy and merging."""
    return Strategy(
        scorer=CalibratedAttention(threshold=1.2, entropy_weight=0.3),
        schedule=Progressive(stages=(0,), retention=(retention,)),
        recycler=GridRecycler(cell=2.5),
    )


def processor_of(model: Path) -> Any:
    """The processor that vLLM takes, too: another one resizes images to other pixels."""
    return partial(AutoProcessor.from_pretrained(model), return_tensors="pt")


def on_transformers(model: Any, processor: Any, questions: Sequence[Question], strategy: Strategy) -> list[Reply]:
    """Answers of transformers, pruned."""
    replies = []
    with torch.no_grad(), prune(model, strategy) as pruning:
        for question in questions:
            images = {"images": list(question.images)} if question.images else {}
            inputs = processor(text=question.prompt, **images)
            unpruned = inputs["input_ids"].shape[1]
            if "batch_num_images" in inspect.signature(model.forward).parameters:
                # vLLM cuts every image into crops, however many a prompt holds.
                inputs["batch_num_images"] = torch.ones(len(question.images), dtype=torch.int64)
            tokens = (_prefilled if question.prompt.endswith(IMAGE) else _generated)(model, inputs)
            plans = tuple(plan.to_host() for plan in pruning.plan) if question.images else ()
            left = unpruned - sum(plan.tokens - plan.counts[0] for plan in plans)
            replies.append(Reply(tokens, left, plans))
    return replies


def _generated(model: Any, inputs: Any) -> list[int]:
    ids = model.generate(
        **inputs, max_new_tokens=GENERATED, min_new_tokens=GENERATED, do_sample=False, eos_token_id=None
    )
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def _prefilled(model: Any, inputs: Any) -> list[int]:
    """Without a cache: after a prompt that ends in an image, transformers' decoding steps go on at other positions."""
    ids, length = inputs["input_ids"], inputs["input_ids"].shape[1]
    for _ in range(GENERATED):
        whole = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": 1 * (ids == model.config.image_token_id),
        }
        following = model(**{**inputs, **whole}, use_cache=False).logits[:, -1:].argmax(dim=-1)
        ids = torch.cat([ids, following], dim=1)
    return ids[0, length:].tolist()


class Engine:
    """``vllm.LLM``, and the plans that its worker makes."""

    def __init__(self, llm: Any, plans: list[PruningPlan]) -> None:
        self.llm = llm
        self._made = plans
        self._of_images: dict[bytes, PruningPlan] = {}

    @property
    def worker_model(self) -> Any:
        """vLLM's model."""
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model

    def ask(self, question: Question) -> Reply:
        """One question alone. An image that was encoded for an earlier one is not encoded again."""
        del self._made[:]
        (reply,) = self.ask_together([question])
        of_new = iter(tuple(self._made))
        for image in question.images:
            if image.tobytes() not in self._of_images:
                self._of_images[image.tobytes()] = next(of_new)
        return Reply(reply.tokens, reply.prompt, tuple(self._of_images[image.tobytes()] for image in question.images))

    def ask_together(self, questions: Sequence[Question]) -> list[Reply]:
        """All questions as one batch of requests; without plans."""
        return [Reply(list(one.outputs[0].token_ids), len(one.prompt_token_ids)) for one in self.outputs(questions)]

    def outputs(self, questions: Sequence[Question], **sampling: Any) -> list[Any]:
        """What vLLM returns."""
        from vllm import SamplingParams

        sampling = {"max_tokens": GENERATED, "ignore_eos": True} | sampling
        requests = [
            {"prompt": one.prompt, **({"multi_modal_data": {"image": list(one.images)}} if one.images else {})}
            for one in questions
        ]
        return self.llm.generate(requests, SamplingParams(temperature=0, **sampling), use_tqdm=False)


def usual(model: Path) -> dict[str, Any]:
    """Options of all engines here."""
    return {
        "model": str(model),
        "dtype": "float32",
        "max_model_len": LENGTH,
        "max_num_batched_tokens": LENGTH,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 4},
        "seed": 0,
    }


@contextmanager
def engine(model: Path, **options: Any) -> Iterator[Engine]:
    """Start an engine, in this process; it and its memory are gone at the end."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    from vflowopt_vllm.planning import EncodedImages

    plans: list[PruningPlan] = []
    planned = EncodedImages.plans

    def noting(*args: Any) -> list[PruningPlan]:
        made = planned(*args)
        plans.extend(plan.to_host() for plan in made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncodedImages, "plans", noting)
        llm = LLM(**usual(model) | options)
        try:
            yield Engine(llm, plans)
        finally:
            llm.llm_engine.engine_core.shutdown()
            del llm
            cleanup_dist_env_and_memory()


def same_plans(own: Reply, other: Reply) -> bool:
    """Whether the same tokens of all images are kept, and the others merged into the same ones."""
    return all(
        np.array_equal(one.kept[0], two.kept[0]) and np.array_equal(one.anchor, two.anchor)
        for one, two in zip(own.plans, other.plans, strict=True)
    )
