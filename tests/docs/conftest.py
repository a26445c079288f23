"""What the pages' snippets are given: tiny random models in the place of checkpoints, files, installed plugins."""

import importlib
import sys
from contextlib import contextmanager

import pytest

from docs.pages import EXAMPLE
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
def deepseek_vl(install, monkeypatch):
    """The example of the adapter guide, installed, with its tiny random model."""
    pytest.importorskip("vflowopt_hf")
    files = {str(path.relative_to(EXAMPLE)): path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("src/**/*.py")}
    install(files | {"pyproject.toml": (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")})
    monkeypatch.syspath_prepend(str(EXAMPLE / "tests"))
    example = importlib.import_module("test_conformance")
    monkeypatch.delitem(sys.modules, "test_conformance")
    from vflowopt_hf.testing.subject import Subject

    subject = Subject(example.CASE, "sdpa")
    return {
        "CASE": example.CASE,
        "DeepseekVL": example.DeepseekVL,
        "conformance": example.conformance,
        "model": subject.model,
        "inputs": subject.batch(subject.image(-1)).inputs,
    }
