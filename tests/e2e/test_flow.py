"""`vflowopt flow` on a saved tiny checkpoint."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from support import checkpoint, tiny
from vflowopt.cli import app

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    directory = tmp_path_factory.mktemp("images")
    for index, (height, width) in enumerate([(42, 42), (60, 84)]):
        tiny.random_image(height, width, index).save(directory / f"{index}.png")
    model = checkpoint.save(tmp_path_factory.mktemp("model"))
    return ("flow", "-m", str(model), "--images", str(directory), "--prompt", "w7 w8")


STRATEGIES = ("-s", "mean-attention@0.5", "-s", "random@1")


def test_numbers_of_every_layer_and_a_picture(ask, tmp_path):
    from PIL import Image

    result = CliRunner().invoke(app, [*ask, *STRATEGIES, "--json", "--out", str(tmp_path / "flow.png")])
    assert result.exit_code == 0, result.stderr or result.exception
    told = json.loads(result.stdout)
    assert (told["layers"], told["samples"]) == (tiny.LAYERS, 2)
    pruned, whole = told["strategies"]
    assert (pruned["strategy"], whole["strategy"]) == ("mean-attention@0.5", "random@1")
    for tokens in ("text", "last"):
        for measure in ("cosine", "l2"):
            assert len(pruned[tokens][measure]["mean"]) == tiny.LAYERS
            assert min(pruned[tokens][measure]["mean"]) > 0
            assert whole[tokens][measure] == {"mean": [0.0] * tiny.LAYERS, "spread": [0.0] * tiny.LAYERS}
    with Image.open(tmp_path / "flow.png") as picture:
        assert picture.format == "PNG"


def test_the_table_shows_what_was_asked_for(ask):
    result = CliRunner().invoke(app, [*ask, *STRATEGIES, "--tokens", "last", "--measure", "l2", "--limit", "1"])
    assert result.exit_code == 0, result.stderr or result.exception
    shown = " ".join(result.stdout.split())
    assert "relative L2 distance to unpruned, last token of the prompt" in shown
    assert f"layer {tiny.LAYERS - 1}" in shown
    assert "0.0000 ± 0.0000" in shown
    assert "of 1 samples" in shown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("--tokens", "first"), "text or last"), (("--measure", "kl"), "cosine or l2"), (("--out", "no/f.png"), "'no'")],
)
def test_bad_options_are_named(ask, arguments, named):
    result = CliRunner().invoke(app, [*ask, *STRATEGIES, *arguments])
    assert result.exit_code == 2
    assert named in result.stderr


def test_an_adapter_that_cannot_is_named(ask, monkeypatch):
    monkeypatch.setattr("vflowopt.plugins.load_adapter", lambda _: SimpleNamespace(name="third-party"))
    result = CliRunner().invoke(app, [*ask, *STRATEGIES])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert "'third-party' has no flow()" in line
