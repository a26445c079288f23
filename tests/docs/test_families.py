"""The table of families says what the adapters are: names, model types, packages, lengths, and what the cases try."""

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

from docs.pages import EXAMPLE, REPOSITORY, prose, read
from support.lines import code_lines, plain_lines

pytest.importorskip("vflowopt_qwen")

from support.cases import NAMES
from vflowopt.discovery.known_models import verdicts
from vflowopt_hf.upstream import TESTED, installed

PACKAGES = {"vflowopt-hf": "vflowopt_hf", "vflowopt-qwen": "vflowopt_qwen"}
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<types>`.+?`) \| `(?P<package>[^`]+)` \| (?P<rest>.+) \|$", re.MULTILINE)
ROWS = {row["name"]: row for row in ROW.finditer(read("families.md"))}


def descriptors():
    for distribution, package in PACKAGES.items():
        for descriptor in importlib.import_module(f"{package}.plugin").vflowopt_adapters():
            yield pytest.param(distribution, descriptor, id=descriptor.name)


def length(path):
    return f"{code_lines(path)} ({plain_lines(path)})"


@pytest.mark.parametrize(("distribution", "descriptor"), list(descriptors()))
def test_every_family_has_a_true_row(distribution, descriptor):
    row = ROWS[descriptor.name]
    assert row["types"] == ", ".join(f"`{kind}`" for kind in descriptor.model_types)
    assert row["package"] == distribution
    *_, lines, file = row["rest"].split(" | ")
    path = Path(inspect.getsourcefile(type(descriptor.load().family)))
    assert file == f"`{path.name}`"
    assert lines == length(path)


def test_no_family_is_invented():
    assert sorted(ROWS) == sorted(parameter.values[1].name for parameter in descriptors())


@pytest.mark.parametrize("module", NAMES)
def test_images_and_videos_are_those_that_conformance_tries(module):
    case = importlib.import_module(f"support.cases.{module}").CASE
    several, video, structural, *_ = ROWS[case.family.name]["rest"].split(" | ")
    assert (several == "yes") == case.several_images
    assert (video == "yes") == (case.video is not None)
    assert ("video" in structural) <= (video == "yes")


def test_lengths_of_shared_files_are_true():
    families = Path(importlib.import_module("vflowopt_hf.families").__file__).parent
    told = " ".join(prose("families.md").split("come on top:")[1].split(".\n")[0].split())
    shared = re.findall(r"`(\w+\.py)` (\d+ \(\d+\))", told)
    assert {name for name, _ in shared} == {
        path.name for path in families.glob("*.py") if f"`{path.name}` |" not in read("families.md")
    } - {"__init__.py"}
    assert [name for name, told in shared if told != length(families / name)] == []


def test_the_examples_length_is_true():
    adapter = EXAMPLE / "src" / "vflowopt_deepseek_vl" / "family.py"
    assert f"in {length(adapter)} lines" in read("families.md")
    registration = plain_lines(adapter.with_name("plugin.py"))
    assert f"{plain_lines(adapter)} lines of adapter, {registration} of registration" in read("adapter-guide.md")


def test_the_tables_of_model_types_are_made_of_the_list():
    made = runpy.run_path(str(REPOSITORY / ".ci" / "known_models.py"))["written"]
    assert made(read("families.md")) == read("families.md"), "make families"


def test_every_multimodal_class_of_transformers_is_listed():
    """Of a newer transformers, types that it has added are to be listed; an older one lacks some."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    mappings = (auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
    there = {kind for mapping in mappings for kind in mapping}
    assert there - set(verdicts()) == set()
    if installed() == TESTED[-1]:
        assert set(verdicts()) == there
