"""vLLM keeps the tokens that vflowopt keeps on transformers, merges as it does, and says the same."""

import pytest

pytest.importorskip("vllm")

from support.serving import Reply, engine, on_transformers, processor_of, same_plans, strategy_at
from vflowopt.cli.evaluate import is_right
from vflowopt_reference import load_model, load_processor
from vflowopt_vllm import engine_options

pytestmark = pytest.mark.vllm

COUNT = 60


@pytest.mark.parametrize("retention", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("name", ["reference", "reference-qwen2vl"])
def test_a_reference_model(name, retention, checkpoint, questions, figures):
    asked, answers = questions(name, COUNT)
    strategy, model = strategy_at(retention), checkpoint(name)
    expected = on_transformers(load_model(model), processor_of(model), asked, strategy)
    with engine(model, **engine_options(str(model), strategy)) as serving:
        alone = [serving.ask(question) for question in asked]
        together = serving.ask_together(asked)

    def right(replies: list[Reply]) -> int:
        said = [load_processor(name).decode(reply.tokens) for reply in replies]
        return sum(is_right(text, [answer]) for text, answer in zip(said, answers, strict=True))

    plans = sum(same_plans(own, other) for own, other in zip(alone, expected, strict=True))
    tokens = sum(own.tokens == other.tokens for own, other in zip(alone, expected, strict=True))
    lengths = sum(reply.prompt for reply in alone), sum(reply.prompt for reply in expected)
    figures.append(
        f"{name} at {retention:.0%}: {COUNT} questions, the same tokens kept and merged in {plans}, the same greedy "
        f"tokens in {tokens}; right {right(alone)}, on transformers {right(expected)}; prompt tokens {lengths[0]}, as "
        f"counted {lengths[1]}"
    )
    assert (plans, tokens) == (COUNT, COUNT)
    assert [reply.prompt for reply in alone] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in together] == [reply.tokens for reply in alone]
