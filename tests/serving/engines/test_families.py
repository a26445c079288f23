"""Families whose towers differ: a class token, windows, features at three depths; and retention 1: stock vLLM."""

import pytest
import torch

pytest.importorskip("vllm")

from transformers import AutoModelForImageTextToText

from support.serving import IMAGE, Question, engine, on_transformers, processor_of, same_plans, strategy_at
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
    upstream = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    expected = on_transformers(upstream, processor_of(model), asked, strategy)
    with engine(model, **engine_options(str(model), strategy)) as serving:
        replies = [serving.ask(question) for question in asked]
    assert len({tuple(reply.tokens) for reply in expected}) > 3  # random weights, too, tell questions apart
    assert all(same_plans(own, other) for own, other in zip(replies, expected, strict=True))
    assert [reply.prompt for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
    figures.append(f"{name} at 25%: {COUNT} questions, the same tokens kept and merged, the same greedy tokens in all")


def test_placeholders_between_markers(checkpoint, questions):
    asked, model, strategy = questions("reference-qwen2vl", COUNT)[0], checkpoint("random-internvl"), strategy_at(0.25)
    asked = [Question(one.prompt.replace(IMAGE, "<IMG_CONTEXT>"), one.images) for one in asked]
    asked.append(Question("what <IMG_CONTEXT>", asked[0].images))
    upstream = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    expected = on_transformers(upstream, processor_of(model), asked, strategy)
    with engine(model, **engine_options(str(model), strategy), max_model_len=2048) as serving:
        replies = [serving.ask(question) for question in asked]
    assert len({tuple(reply.tokens) for reply in expected}) > 3
    assert all(same_plans(own, other) for own, other in zip(replies, expected, strict=True))
    assert [reply.prompt for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]


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
