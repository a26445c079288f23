"""Families whose towers differ: a class token, windows, features at three depths; and retention 1: stock vLLM."""

import pytest
import torch

pytest.importorskip("vllm")

from transformers import AutoModelForImageTextToText

from support.serving import engine, on_transformers, same_plans, strategy_at
from vflowopt_reference import load_processor
from vflowopt_vllm import engine_options

pytestmark = pytest.mark.vllm

COUNT = 16
WORDS = {"random-qwen2.5-vl": "reference-qwen2vl", "random-qwen3-vl": "reference-qwen2vl"}
"""The reference model whose processor and questions a random one takes."""


@pytest.mark.parametrize("name", ["reference-next", "random-qwen2.5-vl", "random-qwen3-vl"])
def test_a_family(name, checkpoint, questions, figures):
    words = WORDS.get(name, name)
    asked, _ = questions(words, COUNT)
    model, strategy = checkpoint(name), strategy_at(0.25)
    processor = load_processor(words)
    processor.image_processor = type(processor.image_processor).from_pretrained(model)
    upstream = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    expected = on_transformers(upstream, processor, asked, strategy)
    with engine(model, **engine_options(str(model), strategy)) as serving:
        replies = [serving.ask(question) for question in asked]
    assert len({tuple(reply.tokens) for reply in expected}) > 3  # random weights, too, tell questions apart
    assert all(same_plans(own, other) for own, other in zip(replies, expected, strict=True))
    assert [reply.prompt for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
    figures.append(f"{name} at 25%: {COUNT} questions, the same tokens kept and merged, the same greedy tokens in all")


@pytest.mark.parametrize("name", ["reference", "reference-qwen2vl"])
def test_retention_1_is_stock_vllm(name, checkpoint, questions):
    asked, _ = questions(name, COUNT)
    model = checkpoint(name)
    with engine(model) as stock:
        expected = stock.ask_together(asked)
        assert type(stock.worker_model).__module__.startswith("vllm.")
    with engine(model, **engine_options(str(model), strategy_at(1.0))) as serving:
        replies = serving.ask_together(asked)
        assert type(serving.worker_model).__module__.startswith("vflowopt_vllm.")
    assert [reply.prompt for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
