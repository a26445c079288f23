"""One pruned model, several threads: every forward has its own state, whatever the others do meanwhile."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from support.repeats import repeats
from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, tiny_onevision
from support.tiny_qwen import qwen_inputs, tiny_qwen2_vl
from vflowopt import Progressive, Strategy, prune
from vflowopt.errors import PruningStateError
from vflowopt.methods import FastV
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.search.evaluator import HiddenStateEvaluator

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)
BY_ATTENTION = Strategy(scorer=FastV(), schedule=Progressive(stages=(2, 4), retention=(0.4, 0.5)))
SIZES = [(80, 60), (42, 42), (30, 150), (84, 84)]
PATIENCE = 60  # seconds after which a test fails that should not wait at all


def generate(model, inputs, steps=4, **options):
    """Token ids; placeholders are kept from being generated: they would be taken for images."""
    return model.generate(**inputs, max_new_tokens=steps, do_sample=False, suppress_tokens=[IMAGE, VIDEO], **options)


@pytest.fixture(scope="module")
def model():
    return tiny_onevision()


@pytest.fixture(scope="module")
def inputs(model):
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate(SIZES)]


def in_thread(work, *args):
    """Run something in a thread of its own; its future."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, *args)
    pool.shutdown(wait=False)
    return future


class Halt:
    """A hook that holds up the next forward of a module until told to go on."""

    def __init__(self, module):
        self.reached, self.go = threading.Event(), threading.Event()
        self._handle = module.register_forward_pre_hook(self._wait)

    def _wait(self, *_):
        self._handle.remove()
        self.reached.set()
        assert self.go.wait(PATIENCE)


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("onevision", STRATEGY),
        ("qwen2-vl", BY_ATTENTION),
        *repeats(("onevision", BY_ATTENTION), ("qwen2-vl", STRATEGY)),
    ],
)
def test_every_thread_gets_the_right_answers(family, strategy):
    model = tiny_onevision() if family == "onevision" else tiny_qwen2_vl()
    make = (lambda *args, **kwargs: image_inputs(model, *args, **kwargs)) if family == "onevision" else qwen_inputs
    batches = [make([[size]], seed=seed) for seed, size in enumerate(SIZES)]
    unpruned = [generate(model, batch) for batch in batches]

    def ask(number):
        answer = generate(model, batches[number % 4])
        return answer, pruning.report

    with prune(model, strategy) as pruning:
        expected = [ask(number) for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(ask, range(40)))
    assert not all(torch.equal(pruned, full) for (pruned, _), full in zip(expected, unpruned, strict=True))
    for number, (answer, report) in enumerate(found):
        assert torch.equal(answer, expected[number % 4][0])
        assert report == expected[number % 4][1]


def test_forwards_interleave_layer_by_layer(model, inputs):
    """One thread stands still in each layer in turn while another runs a whole forward."""
    layers = model.model.language_model.layers
    with prune(model, STRATEGY), torch.no_grad():
        expected = [model(**each).logits for each in inputs[:2]]
        for layer in layers:
            halt = Halt(layer)
            first = in_thread(lambda: torch.no_grad()(model)(**inputs[0]).logits)
            assert halt.reached.wait(PATIENCE)
            assert torch.equal(model(**inputs[1]).logits, expected[1])
            halt.go.set()
            assert torch.equal(first.result(PATIENCE), expected[0])


def test_features_of_one_thread_serve_another(model, inputs):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        expected = model(**inputs[0]).logits
        encode = model.model.get_image_features
        features = in_thread(encode, inputs[0]["pixel_values"], inputs[0]["image_sizes"]).result(PATIENCE)
        got = model(input_ids=inputs[0]["input_ids"], mm_encoder_outputs={"image": features}).logits
        assert torch.equal(got, expected)
        assert pruning.report.retention < 0.5


def test_a_report_is_of_the_own_thread_or_of_whoever_finished_last(model, inputs):
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        sizes = [len(inputs[number]["input_ids"][0]) for number in (0, 1)]
        in_thread(generate, model, inputs[0]).result(PATIENCE)
        assert pruning.report.full_length == sizes[0]
        in_thread(generate, model, inputs[1]).result(PATIENCE)
        assert pruning.report.full_length == sizes[1]
        model(**inputs[0])
        in_thread(generate, model, inputs[1]).result(PATIENCE)
        assert pruning.report.full_length == sizes[0]
        assert in_thread(lambda: pruning.report.full_length).result(PATIENCE) == sizes[1]


def test_an_exception_in_one_of_two_forwards(model, inputs):
    """The other one goes on, and the thread that failed can use the model again."""
    layer, failing = model.model.language_model.layers[3], threading.get_ident()
    with prune(model, STRATEGY), torch.no_grad():
        expected = [model(**each).logits for each in inputs[:2]]
        halt = Halt(layer)
        other = in_thread(lambda: torch.no_grad()(model)(**inputs[0]).logits)
        assert halt.reached.wait(PATIENCE)
        handle = layer.register_forward_pre_hook(lambda *_: 1 / (threading.get_ident() != failing))
        with pytest.raises(ZeroDivisionError):
            model(**inputs[1])
        halt.go.set()
        assert torch.equal(other.result(PATIENCE), expected[0])
        handle.remove()
        assert torch.equal(model(**inputs[1]).logits, expected[1])


@pytest.mark.parametrize("fails", [False, True], ids=["it ends", "it fails"])
def test_a_forward_inside_a_forward(model, inputs, fails):
    layers = model.model.language_model.layers
    inner = []

    def nested(*_):
        handle.remove()
        if not fails:
            inner.append(model(**inputs[1]).logits)
            return
        breaking = layers[4].register_forward_pre_hook(lambda *_: 1 / 0)
        with contextlib.suppress(ZeroDivisionError):
            model(**inputs[1])
        breaking.remove()

    with prune(model, STRATEGY), torch.no_grad():
        expected = [model(**each).logits for each in inputs[:2]]
        handle = layers[3].register_forward_pre_hook(nested)
        assert torch.equal(model(**inputs[0]).logits, expected[0])
        assert fails or torch.equal(inner[0], expected[1])


def test_of_two_threads_that_enter_one_gets_in(model, inputs):
    both, done = threading.Barrier(2), threading.Barrier(2)

    def enter():
        both.wait(PATIENCE)
        try:
            with prune(model, STRATEGY) as pruning:
                done.wait(PATIENCE)
                generate(model, inputs[0])
                return pruning.report.retention < 0.5
        except PruningStateError as error:
            done.wait(PATIENCE)
            return str(error)

    plain = generate(model, inputs[0])
    with ThreadPoolExecutor(2) as pool:
        results = [future.result(PATIENCE) for future in [pool.submit(enter), pool.submit(enter)]]
    assert True in results
    (refusal,) = (result for result in results if result is not True)
    assert "being pruned already" in refusal
    assert torch.equal(generate(model, inputs[0]), plain)


def test_the_end_of_the_block_waits_for_forwards_of_other_threads(model, inputs):
    with torch.no_grad():
        plain = model(**inputs[1]).logits
        with prune(model, STRATEGY):
            expected = model(**inputs[0]).logits
        halt = Halt(model.model.language_model.layers[3])
        block = prune(model, STRATEGY)
        block.__enter__()
        running = in_thread(lambda: torch.no_grad()(model)(**inputs[0]).logits)
        assert halt.reached.wait(PATIENCE)
        leaving = in_thread(block.__exit__, None, None, None)
        with contextlib.suppress(PruningStateError):  # which wins, the end of the block or this forward, is not known
            model(**inputs[1])
        assert not leaving.done()
        halt.go.set()
        leaving.result(PATIENCE)
        assert torch.equal(running.result(PATIENCE), expected)
        assert torch.equal(model(**inputs[1]).logits, plain)


class Reader:
    """A streamer that holds up generation after the first token."""

    def __init__(self):
        self.first, self.go = threading.Event(), threading.Event()

    def put(self, tokens):
        if tokens.ndim == 1 and len(tokens) == 1:  # not the prompt
            self.first.set()
            assert self.go.wait(PATIENCE)

    def end(self):
        pass


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_stream_that_outlives_the_block_says_so(model, inputs, use_cache):
    """It would go on without the hooks that know what is missing, or unpruned."""
    reader = Reader()
    with prune(model, STRATEGY):
        stream = in_thread(lambda: generate(model, inputs[0], streamer=reader, use_cache=use_cache))
        assert reader.first.wait(PATIENCE)
    reader.go.set()
    with pytest.raises(PruningStateError, match="inside"):
        stream.result(PATIENCE)


def test_a_thread_that_starts_after_the_block_says_so(model, inputs):
    """``Thread(target=model.generate)`` may begin late."""
    with prune(model, STRATEGY):
        late = model.generate
    with pytest.raises(PruningStateError, match=r"generate\(\) was called inside"):
        late(**inputs[0], max_new_tokens=2)
    with torch.no_grad():
        assert torch.equal(generate(model, inputs[0]), generate(tiny_onevision(), inputs[0]))


def test_evaluating_and_generating_side_by_side(model, inputs):
    """A search in one thread leaves unpruned generations of another alone, and the other way round."""
    evaluator = HiddenStateEvaluator(LlavaOnevision(), model, inputs[:2], "last-token", LlavaOnevision.pixel_statistics)
    expected, plain = evaluator.evaluate(STRATEGY), generate(model, inputs[0])
    halt = Halt(model.model.language_model.layers[3])
    search = in_thread(evaluator.evaluate, STRATEGY)
    assert halt.reached.wait(PATIENCE)
    assert torch.equal(generate(model, inputs[0]), plain)
    halt.go.set()
    assert search.result(PATIENCE) == expected
