"""What to pass to ``vllm serve``; the installed vLLM is taken to be as it should, or not to be there."""

import json
import sys
from types import ModuleType

import pytest

from vflowopt import CalibratedAttention, Progressive, Strategy
from vflowopt_reference import path
from vflowopt_vllm import engine_options, options
from vflowopt_vllm.command import main
from vflowopt_vllm.errors import ServingError
from vflowopt_vllm.interfaces import TESTED, check_interfaces, newer_than_tested

MODEL = str(path("reference-qwen2vl"))


@pytest.fixture
def right_vllm(monkeypatch):
    monkeypatch.setattr(options, "check_interfaces", lambda: None)


@pytest.mark.usefixtures("right_vllm")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["0.25"], "0.25"),
        (["divprune@0.25,mass=1", "--without-mass"], {"strategy": "divprune@0.25,mass=1", "without_mass": True}),
        (["llava-onevision-7b/25@0.2", "--one-stage"], {"strategy": "llava-onevision-7b/25@0.2", "one_stage": True}),
    ],
)
def test_flags(arguments, expected, capsys):
    assert main(["flags", MODEL, *arguments]) == 0
    option, value = capsys.readouterr().out.split()
    assert option == "--hf-overrides"
    assert json.loads(value) == {"architectures": ["VFlowOptQwen2VLForConditionalGeneration"], "vflowopt": expected}


@pytest.mark.usefixtures("right_vllm")
def test_a_shell_keeps_a_name_with_spaces_in_one_piece(tmp_path, capsys):
    strategy = Strategy(scorer=CalibratedAttention(threshold=1.2), schedule=Progressive.flat(0.25))
    file = str(strategy.save(tmp_path / "my own strategy.json"))
    assert main(["flags", MODEL, file]) == 0
    _, value = capsys.readouterr().out.split()
    assert json.loads(value)["vflowopt"] == file


@pytest.mark.usefixtures("right_vllm")
def test_what_the_server_will_refuse_is_refused(capsys):
    assert main(["flags", MODEL, "nothing.json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vflowopt-vllm: ")
    assert "nothing.json" in printed.err


@pytest.mark.usefixtures("right_vllm")
def test_a_model_that_is_not_served(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        ServingError, match=r"is a LlamaForCausalLM, which is not served .* Qwen2VLForConditionalGeneration"
    ):
        engine_options(str(tmp_path), 0.25)


@pytest.mark.usefixtures("right_vllm")
def test_no_model(tmp_path):
    with pytest.raises(ServingError, match=r"cannot read the configuration of .*nowhere") as caught:
        engine_options(str(tmp_path / "nowhere"), 0.25)
    assert len(str(caught.value).splitlines()) == 1


def test_no_vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ServingError, match=f"vLLM is not installed; install .* of release {TESTED[0]}"):
        check_interfaces()


def test_another_vllm(monkeypatch):
    other = ModuleType("vllm")
    other.__version__ = "0.1.2"
    monkeypatch.setitem(sys.modules, "vllm", other)
    for name in [name for name in sys.modules if name.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ServingError, match=rf"vLLM 0\.1\.2 lacks vllm\.multimodal.*install vLLM {TESTED[0]}"):
        check_interfaces()


def test_only_a_release_that_is_newer_than_any_tested_is_told_of():
    assert newer_than_tested(f"{TESTED[0]}.1") is None
    assert newer_than_tested(f"{TESTED[-1]}.9.post2") is None
    assert f"try vLLM {TESTED[-1]}" in newer_than_tested("0.100.0")
    assert "vLLM 1.0.0rc1 is newer" in newer_than_tested("1.0.0rc1")
