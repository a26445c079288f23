"""The decoder compiled by torch, as vLLM does unless it is told to be eager: with several rotary axes, and with one."""

import pytest

pytest.importorskip("vllm")

from support.serving import engine, on_transformers, processor_of, strategy_at
from vflowopt_reference import load_model
from vflowopt_vllm import engine_options

pytestmark = pytest.mark.vllm

COUNT = 12


@pytest.mark.parametrize("name", ["reference-qwen2vl", "reference-next"])
def test_a_compiled_decoder(name, checkpoint, questions):
    from vllm.compilation.counter import compilation_counter

    asked, model, strategy = questions(name, COUNT)[0], checkpoint(name), strategy_at(0.25)
    expected = on_transformers(load_model(model), processor_of(model), asked, strategy)
    before = compilation_counter.num_models_seen
    with engine(model, **engine_options(str(model), strategy), enforce_eager=False) as serving:
        assert compilation_counter.num_models_seen > before
        replies = serving.ask_together(asked)
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
