"""Every kind of cache that ``generate`` can be asked for: it works as the dynamic one does, or is refused."""

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, StaticCache, cache_utils
from transformers.cache_utils import Cache, QuantizedLayer

from support.generating import generate
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune
from vflowopt.errors import PruningStateError, UnsupportedOperationError
from vflowopt_hf.decoder.quantized_cache import PrunedQuantizedLayer
from vflowopt_hf.upstream import continues_in_chunks

STEPS = 6
STRATEGIES = {
    "from the first layer": Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5),
    "inside the decoder": Strategy.vflowopt(num_layers=LAYERS, retention=(0.3, 0.7), stages=(2, 5), cell=3.0),
}
strategies = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
BATCHES = {"one": [[(80, 60)]], "unequal": [[(42, 42)], [(30, 120), (50, 50)], []]}
batches = pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
HAS_FP8 = hasattr(cache_utils, "Fp8QuantizedLayer")


@pytest.fixture(scope="module")
def model():
    return tiny_onevision()


class Lossless(QuantizedLayer):
    """Quantises nothing away."""

    def _quantize(self, tensor, axis):
        assert axis == 0
        return tensor.clone()

    def _dequantize(self, tensor):
        return tensor


def lossless(residual_length=4):
    return Cache(layers=[Lossless(residual_length=residual_length) for _ in range(LAYERS)])


class Stream(nullcontext):
    """Of an accelerator that is not there."""

    def wait_stream(self, other):
        pass


@pytest.fixture
def streams(monkeypatch):
    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda _device: Stream())


def assert_same(found, expected):
    assert torch.equal(found.sequences, expected.sequences)
    assert (torch.stack(found.logits) - torch.stack(expected.logits)).abs().max() <= 1e-5


@strategies
@batches
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static", "hybrid", "sliding_window"])
def test_other_names(model, streams, kind, samples, strategy):
    inputs = image_inputs(model, samples)
    with prune(model, strategy):
        expected = generate(model, inputs, STEPS)
        found = generate(model, inputs, STEPS, cache_implementation=kind)
    assert_same(found, expected)
    assert found.past_key_values.offloading == kind.startswith("offloaded")


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_an_offloaded_cache_is_continued_with_another_image(model, streams, kind):
    """States are touched only when they are back in their place."""
    first, second = image_inputs(model, [[(80, 60)]]), image_inputs(model, [[(40, 90)]], seed=5)
    text, room = model.config.text_config, {"max_cache_len": 600} if kind is StaticCache else {}
    found = []
    with prune(model, STRATEGIES["from the first layer"]):
        for offloading in (False, True):
            cache = kind(config=text, offloading=offloading, **room)
            one = generate(model, first, 3, past_key_values=cache)
            ids = torch.cat([one.sequences, second["input_ids"]], dim=1)
            inputs = {**second, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            found.append(generate(model, inputs, 3, past_key_values=cache))
    assert_same(found[1], found[0])


@strategies
@batches
def test_quantised_layers_quantise_what_is_retained(model, samples, strategy):
    inputs = image_inputs(model, samples)
    with prune(model, strategy) as pruning:
        expected = generate(model, inputs, STEPS)
        found = generate(model, inputs, STEPS, past_key_values=lossless())
        lengths = pruning.report.sequence_lengths
    assert_same(found, expected)
    cache = found.past_key_values
    assert [layer.stored_length() for layer in cache.layers] == [rows + STEPS - 1 for rows in lengths]
    assert cache.get_seq_length() == found.sequences.shape[1] - 1


def test_beams_on_quantised_layers(model):
    inputs = image_inputs(model, BATCHES["unequal"])
    with prune(model, STRATEGIES["from the first layer"]):
        expected = generate(model, inputs, STEPS, num_beams=3)
        found = generate(model, inputs, STEPS, num_beams=3, past_key_values=lossless())
    assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.skipif(not HAS_FP8, reason="this transformers has no fp8 cache")
def test_the_fp8_cache(model):
    """Close to the exact cache, and a quarter of its bytes in float32."""
    inputs, options = image_inputs(model, BATCHES["one"]), {"cache_config": {"backend": "fp8"}}
    ids = inputs["input_ids"]
    with prune(model, STRATEGIES["inside the decoder"]), torch.no_grad():
        exact, found = (
            generate(model, inputs, 2, **options) for options in ({}, {"cache_implementation": "quantized", **options})
        )
    assert torch.equal(found.logits[0], exact.logits[0])  # the prefill sees what it has just computed
    assert (found.logits[1] - exact.logits[1]).abs().max() <= 0.1 * exact.logits[1].abs().max()
    for layer, other in zip(found.past_key_values.layers, exact.past_key_values.layers, strict=True):
        assert isinstance(layer, PrunedQuantizedLayer)
        assert layer._quantized_keys[0].nbytes * 4 == other.keys.nbytes
        assert layer.get_seq_length() == ids.shape[1] + 1


def test_quantised_layers_are_copied_and_refuse_what_upstream_does_wrong(model):
    inputs, strategy = image_inputs(model, BATCHES["one"]), STRATEGIES["from the first layer"]
    step = {"input_ids": torch.tensor([[7]]), "use_cache": True}
    with prune(model, strategy), torch.no_grad():
        cache = model(**inputs, past_key_values=lossless(), use_cache=True).past_key_values
        copies = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
        expected = model(**step, past_key_values=cache).logits
        assert all(torch.equal(model(**step, past_key_values=other).logits, expected) for other in copies)
        for refused in (
            lambda: cache.crop(-1),
            lambda: cache.batch_repeat_interleave(2),
            lambda: cache.batch_select_indices(torch.tensor([0])),
        ):
            with pytest.raises(UnsupportedOperationError, match=r"quantised KV cache \(Lossless\); use DynamicCache"):
                refused()
        cache.crop(0)
        assert not cache.is_croppable
        before = cache.get_seq_length()
    with pytest.raises(PruningStateError, match="only be continued inside"):
        model(**step, past_key_values=cache)
    assert cache.get_seq_length() == before


def test_a_cache_for_encoders_and_decoders_is_refused(model):
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with (
        prune(model, STRATEGIES["from the first layer"]),
        torch.no_grad(),
        pytest.raises(UnsupportedOperationError, match=r"EncoderDecoderCache has no layer 0, .* use DynamicCache"),
    ):
        model(**image_inputs(model, BATCHES["one"]), past_key_values=cache, use_cache=True)


@pytest.fixture
def inputs(model):
    """Of one image; neither vision tower nor decoder may run with them."""
    made, ran = image_inputs(model, BATCHES["one"]), []
    handles = [
        module.register_forward_pre_hook(lambda *_: ran.append(True))
        for module in (model.model.vision_tower, model.model.language_model)
    ]
    yield made
    for handle in handles:
        handle.remove()
    assert not ran


@pytest.mark.parametrize(
    "options",
    [{"prefill_chunk_size": 40}, {"generation_config": GenerationConfig(prefill_chunk_size=40)}],
    ids=["argument", "configuration"],
)
def test_a_prefill_of_an_image_in_chunks_is_refused(model, inputs, options):
    refused = pytest.raises(UnsupportedOperationError, match="prefill_chunk_size=40 would prune an image in pieces")
    with prune(model, STRATEGIES["from the first layer"]), refused:
        model.generate(**inputs, max_length=300, **options)


def test_a_chunk_size_of_the_models_own_is_refused_likewise(model, inputs, monkeypatch):
    monkeypatch.setattr(model.generation_config, "prefill_chunk_size", 40)
    refused = pytest.raises(UnsupportedOperationError, match="prefill_chunk_size=40")
    with prune(model, STRATEGIES["from the first layer"]), refused:
        model.generate(**inputs, max_length=300)


def test_text_is_prefilled_in_chunks(model):
    """On a pruned cache, too, where upstream can."""
    first, question = image_inputs(model, BATCHES["one"]), image_inputs(model, [[]], seed=3)
    found = []
    with prune(model, STRATEGIES["from the first layer"]):
        for options in ({}, {"prefill_chunk_size": 3}):
            one = generate(model, first, 3)
            ids = torch.cat([one.sequences, question["input_ids"]], dim=1)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            able = continues_in_chunks() or not options
            refused = pytest.raises(UnsupportedOperationError, match="from its beginning, on top of")
            with nullcontext() if able else refused:
                found.append(generate(model, inputs, 3, past_key_values=one.past_key_values, **options))
    assert_same(found[-1], found[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda model, ids: model.generate_batch([ids[0].tolist()]),
        lambda model, ids: model.init_continuous_batching(),
        lambda model, ids: model.generate(ids, cache_implementation="paged"),
    ],
    ids=["generate_batch", "init_continuous_batching", "generate"],
)
def test_continuous_batching_is_refused(model, inputs, call):
    refused = pytest.raises(UnsupportedOperationError, match="continuous batching takes token ids and no pixels")
    with prune(model, STRATEGIES["from the first layer"]), refused:
        call(model, inputs["input_ids"])


def test_the_models_own_methods_are_back_afterwards(model):
    names = ("generate", "generate_batch", "init_continuous_batching")
    before = {name: vars(model).get(name) for name in names}
    own = model.generate
    model.generate = own
    try:
        with prune(model, STRATEGIES["from the first layer"]):
            assert model.generate is not own
        assert model.generate is own
    finally:
        del model.generate
    assert {name: vars(model).get(name) for name in names} == before
