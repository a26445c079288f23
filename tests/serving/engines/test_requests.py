"""One engine under requests of all kinds: parts of images per step, cached parts of images, several at once."""

import itertools

import numpy as np
import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError

from support.serving import GENERATED, Question, engine, on_transformers, processor_of, strategy_at
from vflowopt.errors import InputError
from vflowopt_reference import load_model
from vflowopt_vllm import engine_options, pruned_model

pytestmark = pytest.mark.vllm

NAME, RETENTION = "reference-qwen2vl", 0.5
PER_STEP = 48
"""Tokens that are computed at once: fewer than most images have left."""

SMALL = {"mm_processor_kwargs": {"max_pixels": 2 * 224 * 224}, "max_model_len": 1024, "block_size": 32}
IMAGE = 4


@pytest.fixture(scope="module")
def asked(questions):
    """Two images before and within a question, one image, none, a prompt that ends in an image; and each once more."""
    found, _ = questions(NAME, 24)
    made = []
    for first, second in itertools.pairwise(found[::3]):
        question = first.prompt.split("<image>")[1]
        both = (*first.images, *second.images)
        made += [
            Question(f"<|im_start|>user <image>what <image>{question}", both),
            Question(f"<|im_start|>user what <image>color <image>{question}", both),
            first,
            Question(f"<|im_start|>user {question}"),
            Question("<|im_start|>user what <image>", second.images),
        ]
    return made


@pytest.fixture(scope="module")
def expected(asked, checkpoint):
    return on_transformers(load_model(checkpoint(NAME)), processor_of(checkpoint(NAME)), asked, strategy_at(RETENTION))


@pytest.fixture(scope="module")
def serving(checkpoint):
    model = checkpoint(NAME)
    options = engine_options(str(model), strategy_at(RETENTION))
    with engine(model, **options, **SMALL, max_num_batched_tokens=PER_STEP) as started:
        yield started


def test_requests_of_all_kinds_at_once(serving, asked, expected, monkeypatch):
    parts = []
    sub_batches = pruned_model.sub_batches

    def noting(tokens, at_once):
        parts.append(list(sub_batches(tokens, at_once)))
        return iter(parts[-1])

    monkeypatch.setattr(pruned_model, "sub_batches", noting)
    replies = serving.ask_together(asked)
    assert [reply.prompt for reply in replies] == [reply.prompt for reply in expected]
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]
    # Of what is asked here, images are longer than a step, and several of them in the tower's budget before pruning.
    retained = [plan.counts[0] for reply in expected for plan in reply.plans]
    assert max(retained) > PER_STEP
    assert max(map(len, parts)) > 1


def test_images_that_are_cached_in_part(serving, asked, expected):
    """The second time, prefixes are found that end inside of images; each request alone, in another order."""
    for question, before in reversed(list(zip(asked, expected, strict=True))):
        (output,) = serving.outputs([question])
        assert list(output.outputs[0].token_ids) == before.tokens
    inside = 0
    for question in asked:
        (output,) = serving.outputs([question])
        ids, cached = np.array(output.prompt_token_ids), output.num_cached_tokens
        inside += bool(cached and (ids[cached - 1 : cached + 1] == IMAGE).all())
    assert inside > 0


@pytest.mark.parametrize(
    ("prompt", "modality", "error", "told"),
    [
        ("<video>what", "video", VLLMValidationError, "At most 0 video"),
        ("<image>what <image>", "image", InputError, "1 more image placeholders than images"),
    ],
)
def test_what_is_refused_leaves_the_engine_serving(serving, asked, expected, prompt, modality, error, told):
    given = {"video": np.zeros((4, 112, 112, 3), np.uint8), "image": asked[2].images[0]}
    request = {"prompt": f"<|im_start|>user {prompt}", "multi_modal_data": {modality: given[modality]}}
    with pytest.raises(error, match=told):
        serving.llm.generate([request], use_tqdm=False)
    assert serving.ask_together(asked[:3])[2].tokens == expected[2].tokens


def test_preempted_requests_are_computed_again(checkpoint, questions, monkeypatch):
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    preempt = Scheduler._preempt_request
    monkeypatch.setattr(
        Scheduler,
        "_preempt_request",
        lambda self, request, *args, **kwargs: (
            preempted.append(request.request_id) or preempt(self, request, *args, **kwargs)
        ),
    )
    asked, model = questions(NAME, 12)[0], checkpoint(NAME)
    asked = [Question(one.prompt.removesuffix("<|im_end|><|im_start|>assistant"), one.images) for one in asked]
    few = {"num_gpu_blocks_override": 12, "enable_prefix_caching": False}
    options = engine_options(str(model), strategy_at(RETENTION))
    with engine(model, **options, **SMALL | {"max_model_len": 320}, **few, max_num_batched_tokens=320) as serving:
        alone = [serving.outputs([one], max_tokens=40)[0].outputs[0].token_ids for one in asked]
        assert not preempted
        together = [output.outputs[0].token_ids for output in serving.outputs(asked, max_tokens=40)]
    assert preempted
    assert together == alone
    expected = on_transformers(load_model(model), processor_of(model), asked, strategy_at(RETENTION))
    assert [list(tokens[:GENERATED]) for tokens in together] == [reply.tokens for reply in expected]
