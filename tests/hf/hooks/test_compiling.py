"""Parts of a model that the user has compiled: they run as they were written where a graph would pass over hooks."""

import copy

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from support.repeats import repeats
from support.tiny import image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.errors import UnsupportedOperationError
from vflowopt.methods import FastV
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.search.evaluator import HiddenStateEvaluator

LAYERS = 2  # of the tower and of the decoder: what is compiled takes long for each
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6), stages=(0, 1), threshold=1.2, cell=2.5)
BY_ATTENTION = Strategy(scorer=FastV(), schedule=Progressive(stages=(1,), retention=(0.4,)))


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tiny():
    config = copy.deepcopy(tiny_onevision().config)
    config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = LAYERS
    config.text_config.layer_types = ["full_attention"] * LAYERS
    torch.manual_seed(1)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model


def compiled(function):
    return torch.compile(function, backend="eager")


def tower_in_place(model):
    model.model.vision_tower.compile(backend="eager")


def tower_replaced(model):
    model.model.vision_tower = compiled(model.model.vision_tower)


def tower_forward(model):
    model.model.vision_tower.forward = compiled(model.model.vision_tower.forward)


def tower_layers(model):
    for layer in model.model.vision_tower.encoder.layers:
        layer.compile(backend="eager")


def encoder(model):
    model.model.get_image_features = compiled(model.model.get_image_features)


def backbone_in_place(model):
    model.model.compile(backend="eager")


def backbone_replaced(model):
    model.model = compiled(model.model)


def decoder_in_place(model):
    model.model.language_model.compile(backend="eager")


def decoder_replaced(model):
    model.model.language_model = compiled(model.model.language_model)


def decoder_layers(model):
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager")


def decoder_layers_replaced(model):
    layers = model.model.language_model.layers
    for index, layer in enumerate(list(layers)):
        layers[index] = compiled(layer)


def attention(model):
    for layer in model.model.language_model.layers:
        layer.self_attn.compile(backend="eager")


def feed_forward(model):
    for layer in model.model.language_model.layers:
        layer.mlp.compile(backend="eager")


PLACES = [
    tower_in_place,
    tower_replaced,
    tower_forward,
    tower_layers,
    encoder,
    backbone_in_place,
    backbone_replaced,
    decoder_in_place,
    decoder_replaced,
    decoder_layers,
    decoder_layers_replaced,
    attention,
    feed_forward,
]


TOLD = [tower_in_place, tower_forward, backbone_in_place, decoder_replaced, decoder_layers, attention]
"""Every kind of compiled part, and every place of one; the others are another kind in one of these places."""


def run_by_parts(model, inputs):
    """Let the tower see the pictures, and the decoder read some text: much less is compiled than of a whole prefill."""
    pixels = {name: inputs[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
    text = {name: inputs[name][:, -5:] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        model.model.get_image_features(**pixels)
        model(**text)


def answer(model, inputs):
    """Logits of two tokens, and the tokens: of a prefill and a decoding step."""
    output = model.generate(
        **inputs,
        max_new_tokens=2,
        do_sample=False,
        suppress_tokens=[1, 2],
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.stack(output.logits), output.sequences


@pytest.mark.parametrize(
    ("place", "strategy"),
    [
        *((place, STRATEGY) for place in TOLD),
        *repeats(*((place, STRATEGY) for place in PLACES if place not in TOLD)),
        *repeats((attention, BY_ATTENTION), (decoder_layers, BY_ATTENTION)),
    ],
)
def test_a_part_that_was_compiled(place, strategy):
    """It has run before the block, as a graph without hooks; after the block it is as it was."""
    plain, model = tiny(), tiny()
    inputs = image_inputs(plain, [[(42, 42)]])
    full, _ = answer(plain, inputs)
    place(model)
    run_by_parts(model, inputs)
    before = [dict(vars(module)) for module in model.modules()]
    with prune(plain, strategy):
        expected = answer(plain, inputs)
    with prune(model, strategy) as pruning:
        got = answer(model, inputs)
        assert pruning.report.retention < 0.8
    assert [dict(vars(module)) for module in model.modules()] == before
    assert torch.equal(got[1], expected[1])
    assert (got[0] - expected[0]).abs().max() <= 1e-6 * expected[0].abs().max()
    assert (got[0] - full).abs().max() > 1e-3


@pytest.mark.parametrize("place", [tower_replaced, decoder_layers])
def test_a_search_on_a_model_with_a_compiled_part(place):
    plain, model = tiny(), tiny()
    samples = [image_inputs(plain, [[(42, 42)]])]
    place(model)
    scores = [
        HiddenStateEvaluator(LlavaOnevision(), one, samples, "last-token", LlavaOnevision.pixel_statistics)
        .evaluate(STRATEGY)
        .score
        for one in (plain, model)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
    assert scores[0] < 0.9999


class Counting:
    """A backend that runs graphs as they are, and counts."""

    def __init__(self):
        self.calls = 0

    def __call__(self, graph, _inputs):
        def run(*args):
            self.calls += 1
            return graph(*args)

        return run


def compile_layers(layers, backend):
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


@pytest.mark.parametrize("part", ["tower", "decoder"])
def test_layers_whose_forward_was_compiled_stay_so(part):
    """But the one in which somebody looks on at the attention."""
    plain, model, backend = tiny(), tiny(), Counting()
    layers = model.model.vision_tower.encoder.layers if part == "tower" else model.model.language_model.layers
    inputs = image_inputs(plain, [[(42, 42)]])
    with prune(plain, STRATEGY):
        expected = answer(plain, inputs)
    compile_layers(layers, backend)
    with torch.no_grad():
        model(**inputs)
    of_all_layers, backend.calls = backend.calls, 0
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model(**inputs)
        ran = backend.calls
        got = answer(model, inputs)
        assert pruning.report.retention < 0.8
    assert torch.equal(got[1], expected[1])
    assert (got[0] - expected[0]).abs().max() <= 1e-6 * expected[0].abs().max()
    assert 0 < ran == of_all_layers * ((len(layers) - 1) / len(layers) if part == "tower" else 1)


def test_towers_that_are_compiled_inside_the_block_are_refused():
    model = tiny()
    with prune(model, STRATEGY):
        compile_layers(model.model.vision_tower.encoder.layers, Counting())
        with torch.no_grad(), pytest.raises(UnsupportedOperationError, match="compiled must be so before the block"):
            model(**image_inputs(model, [[(42, 42)]]))
