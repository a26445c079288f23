"""Processors without torchvision: the same inputs as upstream's, called alike; refused where they would differ."""

import importlib

import pytest
import torch

import vflowopt_hf
from support import checkpoint, tiny
from vflowopt import Strategy, prune
from vflowopt.errors import InputError, UnsupportedModelError
from vflowopt_hf import load_processor
from vflowopt_hf.checkpoint.processing import ImageTextProcessor

CONVERSATION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w7 w8"}]}]
PHOTO = tiny.random_image(60, 84, 1)
MISSING = ImportError("\nProcessor requires the Torchvision library but it was not found in your environment.")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def processor(directory):
    return load_processor(directory, tiny.tiny_onevision())


def test_the_whole_way_in_python(processor):
    """As the documentation shows it: template, inputs, prune, generate, decode."""
    model = tiny.tiny_onevision()
    text = processor.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    inputs = processor(images=[PHOTO], text=text, return_tensors="pt").to(model.device, model.dtype)
    strategy = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.5, 1, 1))
    with prune(model, strategy, processor=processor) as pruning, torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        (unit,) = pruning.report.units
    assert int((inputs["input_ids"] == tiny.IMAGE).sum()) == unit.tokens
    answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == processor.batch_decode(output[:, inputs["input_ids"].shape[1] :])[0]
    assert set(answer.split()) <= {f"w{number}" for number in range(tiny.VOCABULARY)}


def test_inputs_can_be_cast_without_their_token_ids(processor):
    inputs = processor(images=PHOTO, text=["<image> w7"]).to("cpu", torch.bfloat16)
    assert inputs["pixel_values"].dtype == torch.bfloat16
    assert inputs["input_ids"].dtype == torch.int64


def test_upstreams_processor_is_taken_where_it_loads(directory, monkeypatch):
    own = object()
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda source: own)
    assert load_processor(directory, tiny.tiny_onevision()) is own


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": "<image> w7"}, "there is no image"),
        ({"images": [PHOTO], "text": "w7"}, "has 0 image placeholders for 1 images; it takes one '<image>' for each"),
        ({"images": [PHOTO], "text": ["<image>", "<image>"]}, "one prompt at a time .*: pip install torchvision"),
        ({"images": [PHOTO], "text": "<image>", "return_tensors": "np"}, "return_tensors='np'"),
        ({"videos": [[PHOTO]], "text": "<video>"}, "need torchvision"),
    ],
)
def test_what_it_does_not_take(given, said, processor):
    with pytest.raises(InputError, match=said):
        processor(**given)


@pytest.mark.parametrize(
    ("name", "repeats"),
    [("llava_next_video", True), ("qwen2_5_vl", True), ("internvl", False), ("smolvlm", False), ("gemma3", False)],
)
def test_families_whose_prompts_hold_more_than_placeholders_need_upstreams_processor(name, repeats, directory):
    family = importlib.import_module(f"support.cases.{name}").CASE.family
    assert family.repeats_placeholders is repeats
    if repeats:
        assert ImageTextProcessor.load(family, None, directory, MISSING).tokenizer is not None
        return
    with pytest.raises(
        InputError, match=rf"{family.name} models need transformers' own .*: pip install torchvision; .*the Torchv"
    ):
        ImageTextProcessor.load(family, None, directory, MISSING)


def test_models_and_directories_that_do_not_do(tmp_path):
    with pytest.raises(UnsupportedModelError):
        load_processor(tmp_path, object())
    with pytest.raises(InputError, match="cannot load the processor of"):
        load_processor(tmp_path, tiny.tiny_onevision())
    assert not hasattr(vflowopt_hf, "no_such_name")
