"""The decoder compiled by torch, as vLLM does unless it is told to be eager."""

import pytest

pytest.importorskip("vllm")

from support.serving import engine, on_transformers, processor_of, strategy_at
from vflowopt_reference import load_model
from vflowopt_vllm import engine_options

pytestmark = pytest.mark.vllm

NAME, COUNT = "reference-qwen2vl", 12


def test_a_compiled_decoder(checkpoint, questions):
    from vllm.compilation.counter import compilation_counter

    asked, model, strategy = questions(NAME, COUNT)[0], checkpoint(NAME), strategy_at(0.25)
    expected = on_transformers(load_model(model), processor_of(model), asked, strategy)
    before = compilation_counter.num_models_seen
    with engine(model, **engine_options(str(model), strategy), enforce_eager=False) as serving:
        assert compilation_counter.num_models_seen > before
        replies = serving.ask_together(asked)
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
