"""A checkpoint that is not whole, or not of one model, is refused by name: it never answers with random numbers."""

import importlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import checkpoint, tiny
from support.cases import NAMES
from vflowopt import Strategy
from vflowopt.errors import InputError, UnsupportedModelError, UnsupportedOperationError
from vflowopt.plugins import find_adapter
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.checkpoint.weights import check_size, check_weights

LAYER, HEAD = "language_model.model.layers.1.", "language_model.lm_head.weight"
"""As upstream names them in files."""
STAND_INS = ("fast_vlm", "perception_lm")
"""Whose towers stand for timm's, which need not be installed: a checkpoint would bring timm's."""
CASES = [name for name in NAMES if name not in STAND_INS]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return checkpoint.save(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(good, tmp_path):
    return shutil.copytree(good, tmp_path / "copy")


def with_weights(directory, change):
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def with_config(directory, part=None, **values):
    file = directory / "config.json"
    config = json.loads(file.read_text())
    (config if part is None else config[part]).update(values)
    file.write_text(json.dumps(config))


def refusal(directory):
    with pytest.raises(InputError) as caught:
        llava_onevision.load(directory)
    assert repr(str(directory)) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_whole_loads(good):
    loaded = llava_onevision.load(good)
    wanted = tiny.tiny_onevision().state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in loaded.model.state_dict().items())


WEIGHTS = {
    "a layer is missing": (
        lambda weights: {name: weight for name, weight in weights.items() if LAYER not in name},
        ["12 of 133 weights are missing (model.language_model.layers.1.", "download the checkpoint again"],
    ),
    "one is missing": (
        lambda weights: {name: weight for name, weight in weights.items() if name != HEAD},
        ["1 of 133 weights are missing (lm_head.weight)"],
    ),
    "of another kind of model": (
        lambda weights: {f"bert.{name}": weight for name, weight in weights.items()},
        ["133 of 133 weights are missing"],
    ),
    "a further layer": (
        lambda weights: {
            **weights,
            **{name.replace("1", "9"): weight.clone() for name, weight in weights.items() if LAYER in name},
        },
        ["are of layers or parts that the model lacks (model.language_model.layers.9.", ", ...)"],
    ),
    "a bias that the model lacks": (
        lambda weights: {**weights, f"{LAYER}self_attn.o_proj.bias": torch.zeros(48)},
        ["1 are of layers or parts that the model lacks (model.language_model.layers.1.self_attn.o_proj.bias)"],
    ),
    "another shape": (
        lambda weights: {**weights, HEAD: torch.zeros(8, 48)},
        ["1 have another shape (lm_head.weight is [8, 48], not [64, 48])"],
    ),
}


@pytest.mark.parametrize(("change", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_not_the_models(change, said, copy):
    with_weights(copy, change)
    message = refusal(copy)
    assert all(part in message for part in said), message


def test_the_head_of_another_task_does_no_harm(copy):
    with_weights(copy, lambda weights: {**weights, "value_head.weight": torch.zeros(2, 48)})
    assert llava_onevision.load(copy).model.lm_head.weight.shape == (64, 48)


@pytest.mark.parametrize("name", CASES)
def test_every_family_has_the_weights_that_it_saves(name, tmp_path):
    """Tied and ignored weights are not missing; a size that is far too large is found before memory is taken."""
    from transformers import AutoModelForImageTextToText

    model = importlib.import_module(f"support.cases.{name}").CASE.model("sdpa")
    model.save_pretrained(tmp_path)
    check_size(tmp_path)
    again, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    check_weights(tmp_path, again, info)
    assert find_adapter(again).num_layers(again) == find_adapter(model).num_layers(model)
    with_config(tmp_path, "text_config", vocab_size=10**9)
    with pytest.raises(InputError, match=r"describes a model of .* weights, and it holds .* not of one model"):
        check_size(tmp_path)
    depth = "depth" if "depth" in json.loads((tmp_path / "config.json").read_text())["vision_config"] else None
    with_config(tmp_path, "vision_config", **{depth or "num_hidden_layers": 10**9})
    with pytest.raises(InputError, match="describes 1,000,000,000 layers"):
        check_size(tmp_path)


CONFIGS = {
    "no text config": (None, {"text_config": None}, "not of one model"),
    "wider": ("text_config", {"intermediate_size": 96}, "have another shape .* is [48, 64], not [48, 96]"),
    "huge": ("text_config", {"hidden_size": 10**9}, "not of one model"),
    "no heads": ("text_config", {"num_attention_heads": 0}, "ZeroDivisionError"),
    "negative": ("vision_config", {"num_attention_heads": -1}, "says num_attention_heads = -1"),
    "text": ("text_config", {"hidden_size": "large"}, "hidden_size"),
    "null": ("vision_config", {"patch_size": None}, "patch_size"),
    "another tower": ("vision_config", {"model_type": "no-such"}, "no-such"),
    "activation": ("text_config", {"hidden_act": "no-such"}, "KeyError: 'no-such'"),
    "dtype": (None, {"dtype": "no-such"}, "no-such"),
}


@pytest.mark.parametrize(("part", "values", "said"), CONFIGS.values(), ids=CONFIGS)
def test_absurd_configurations(part, values, said, copy):
    with_config(copy, part, **values)
    message = refusal(copy)
    assert all(piece in message for piece in said.split(" .* ")), message


FILES = {
    "weights cut short": ("model.safetensors", lambda raw: raw[:5000], "download it again"),
    "no weights": ("model.safetensors", None, "no file named model.safetensors"),
    "no tokenizer": ("tokenizer.json", None, "cannot load the processor"),
    "a tokenizer of nothing": ("tokenizer.json", lambda raw: b"{}", "check the files of its tokenizer"),
    "no image processor": ("preprocessor_config.json", None, "cannot load the processor"),
    "an image processor that is a list": ("preprocessor_config.json", lambda raw: b"[]", "cannot load the processor"),
    "generation settings that are a list": ("generation_config.json", lambda raw: b"[]", "cannot load a model"),
}


@pytest.mark.parametrize(("name", "change", "said"), FILES.values(), ids=FILES)
def test_damaged_and_missing_files(name, change, said, copy):
    file = copy / name
    file.unlink() if change is None else file.write_bytes(change(file.read_bytes()))
    assert said in refusal(copy)


def test_a_tokenizer_of_another_model_is_not_told_as_a_prompt_without_placeholders(copy):
    with_config(copy, image_token_id=1000, image_token_index=1000)
    message = refusal(copy)
    assert "has no tokenizer, or that of another model" in message
    assert "it knows 64 tokens, and number 1000 stands for images in config.json" in message


class Code:
    """What a pickle may hold besides tensors."""


def test_pickled_weights(copy):
    """Tensors alone are loaded; what would run code is refused, without the advice to run it."""
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    assert torch.equal(llava_onevision.load(copy).model.lm_head.weight, weights[HEAD])
    torch.save({**weights, "more": Code()}, copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "a pickle that is damaged or holds more than tensors; convert them to safetensors" in message
    assert "weights_only" not in message


def test_a_feature_layer_that_the_tower_lacks(copy):
    with_config(copy, vision_feature_layer=99)
    loaded = llava_onevision.load(copy)
    strategy = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.5, 1, 1))
    with (
        pytest.raises(UnsupportedModelError, match="vision_feature_layer=99 is none of the tower's 4 hidden states"),
        llava_onevision.prune(loaded.model, strategy),
    ):
        pass


@pytest.mark.parametrize("device", ["cuda:99", "xpu", "mps", "meta", "toaster"])
def test_devices_that_are_not_there_are_named_before_anything_is_loaded(device, tmp_path):
    with pytest.raises(InputError, match=rf"'{device}' (is not|here|holds)|no device '{device}' here"):
        llava_onevision.load(tmp_path / "missing", device=device)


@pytest.mark.parametrize("dtype", ["float", "int8", "no-such", "nn", "Tensor"])
def test_dtypes_of_models(dtype, good):
    if dtype == "float":
        assert llava_onevision.load(good, dtype=dtype).model.dtype == torch.float32
        return
    with pytest.raises(InputError, match=f"'{dtype}' is not a dtype of models; use auto, float32"):
        llava_onevision.load(good, dtype=dtype)


def test_adapters_of_weights_are_refused_where_peft_is_missing(good, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(InputError, match="is a PEFT adapter, and peft is not installed: pip install peft"):
        llava_onevision.load(good, peft=str(tmp_path))


def test_data_parallel_over_several_devices_is_refused():
    wrapped = torch.nn.DataParallel(tiny.tiny_onevision())
    wrapped.device_ids = [0, 1]
    with pytest.raises(UnsupportedOperationError, match="copies the model to 2 devices at every forward"):
        find_adapter(wrapped)
