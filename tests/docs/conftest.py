"""What the pages' snippets are given: tiny random models in the place of checkpoints, files, installed plugins."""

import importlib
import sys
from contextlib import contextmanager

import pytest

from vflowopt import Strategy, plugins

PLUGIN_METADATA = "Metadata-Version: 2.4\nName: {name}\nVersion: 0.1.0\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write a package's files and its metadata where Python finds them: what ``pip install`` amounts to."""
    added = []

    def written(files):
        import tomllib

        project = tomllib.loads(files["pyproject.toml"])["project"]
        site = tmp_path / "site-packages"
        for name, text in files.items():
            if name.startswith("src/"):
                path = site / name.removeprefix("src/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                added.append(path.parent.name)
        info = site / f"{project['name'].replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(PLUGIN_METADATA.format(name=project["name"]))
        points = "\n".join(f"{name} = {target}" for name, target in project["entry-points"]["vflowopt"].items())
        (info / "entry_points.txt").write_text(f"[vflowopt]\n{points}\n")
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        plugins.installed.cache_clear()
        assert not [f for f in plugins.installed().failures if f.distribution == project["name"]]

    yield written
    plugins.installed.cache_clear()
    for name in list(sys.modules):
        if name.partition(".")[0] in added:
            del sys.modules[name]


@contextmanager
def seven_billion_shape():
    """Depth of the 7B model for the tiny one, so that its presets fit."""
    from support import tiny

    shallow, tiny.LAYERS = tiny.LAYERS, 28
    try:
        yield tiny
    finally:
        tiny.LAYERS = shallow


@pytest.fixture
def onevision(tmp_path):
    """Names that the guides take for granted once a LLaVA-OneVision checkpoint is loaded."""
    pytest.importorskip("vflowopt_hf")
    with seven_billion_shape() as tiny:
        model = tiny.tiny_onevision()
    Strategy.preset("llava-onevision-7b/25").save(tmp_path / "ov-25.json")
    return {
        "model": model,
        "inputs": tiny.image_inputs(model, [[(80, 60)]]),
        "several_images": tiny.image_inputs(model, [[(42, 42), (60, 60)], [(84, 42)], []]),
        "samples": [tiny.image_inputs(model, [[size]], seed=seed) for seed, size in enumerate([(80, 60), (42, 84)])],
    }


@pytest.fixture
def reference():
    """The reference model's page loads the shipped weights by itself."""
    pytest.importorskip("vflowopt_reference")
    return {}


@pytest.fixture
def llava_next():
    """A tiny random LLaVA-NeXT model, for the adapter guide."""
    pytest.importorskip("vflowopt_hf")
    import torch
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, Qwen2Config
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    from support.tiny import CROP, EOS, IMAGE, PAD, PATCH, PINPOINTS, VOCABULARY, random_image, sharpen

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=CROP,
        patch_size=PATCH,
    )
    text = Qwen2Config(
        hidden_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS[1:]
    )
    model = LlavaNextForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = PAD
    sharpen(model)
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP}, image_grid_pinpoints=PINPOINTS[1:]
    )

    def inputs(height, width):
        pixels = processor([random_image(height, width)], return_tensors="pt")
        with torch.no_grad():
            features = model.model.get_image_features(pixels["pixel_values"], pixels["image_sizes"])
        ids = torch.tensor([[5, 6, *[IMAGE] * len(features.pooler_output[0]), 7, 8, 9]])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}

    return {"model": model, "inputs": inputs(60, 100), "inputs_of_size": inputs}
