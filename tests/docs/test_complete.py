"""What exists is documented: commands and options, hooks, components, presets, objectives, errors, family members."""

import argparse
import inspect
import re
import shlex

import pytest
import typer

import vflowopt
from docs.pages import PAGES, blocks, headings, read, section
from vflowopt import errors, hookspecs
from vflowopt.cli import app
from vflowopt.discovery import registry
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.shipped import preset_names
from vflowopt.strategies.strategy import Strategy

COMMANDS = typer.main.get_command(app).commands


def options(command):
    return [parameter for parameter in command.params if parameter.name != "help" and not parameter.hidden]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented_with_its_options_and_an_example(name):
    text = section("cli.md", name)
    for parameter in options(COMMANDS[name]):
        assert f"`{parameter.opts[0]}`" in text, parameter.opts
        if parameter.default not in (None, False, "auto", ()) and not callable(parameter.default):
            assert str(parameter.default) in text, (parameter.name, parameter.default)
    assert f"vflowopt {name}" in "".join(block.text for block in blocks("cli.md") if block.language == "bash")


def test_no_command_is_invented():
    documented = [heading for heading in headings("cli.md") if heading == heading.lower() and " " not in heading]
    assert sorted(documented) == sorted(COMMANDS)


def example_commands():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "bash":
                for line in block.text.splitlines():
                    if line.startswith("vflowopt "):
                        yield pytest.param(line, id=f"{page}: {line[:60]}")


@pytest.mark.parametrize("line", list(example_commands()))
def test_example_commands_are_accepted(line):
    """Parsed with the real options; not run."""
    _, name, *arguments = shlex.split(line)
    if "--help" not in arguments:
        COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize(
    "strategy", sorted(set(re.findall(r"--strategy ([\w-]+@\S+?)[`)\s]", "".join(map(read, PAGES)))))
)
def test_example_strategies_are_understood(strategy):
    from vflowopt.strategies.reading import read_strategy

    if not strategy.startswith("centered-attention"):  # the plugin that the guide builds
        read_strategy(strategy)(28)


HOOKS = [name for name, value in vars(hookspecs).items() if name.startswith("vflowopt_") and inspect.isfunction(value)]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(name):
    hook = getattr(hookspecs, name)
    signature = inspect.signature(hook, eval_str=False)
    annotation = inspect.formatannotation(signature.return_annotation).replace("collections.abc.", "")
    annotation = re.sub(r"[\w.]+\.(\w+)", r"\1", annotation)
    parameters = str(signature.replace(return_annotation=inspect.Signature.empty))
    assert f"{name}{parameters} -> {annotation}\n" in section("write-a-component.md", name)


CORE = [(component.kind, component) for component in registry.CORE_COMPONENTS]


@pytest.mark.parametrize(("kind", "component"), CORE, ids=[component.component_name() for _, component in CORE])
def test_every_component_and_option_is_documented(kind, component):
    name = component.component_name()
    sections = {"scorer": "Scorers", "schedule": "Schedules", "recycler": "Recyclers", "mass": "Mass"}
    text = section("strategies.md", sections[kind])
    assert f"`{name}`" in text
    if kind == "scorer":
        row = re.search(rf"^\| \[`{name}`\]\(([\w-]+\.md)\)", read("methods/index.md"), re.MULTILINE)
        assert row is not None, "not in the table of methods"
        text = read(f"methods/{row[1]}")
        assert f"`{name}`" in text or f"## {name}\n" in text
    for option in component.model_fields:
        assert option == "name" or f"`{option}`" in text, option


def test_every_field_of_the_file_is_documented():
    assert [name for name in Strategy.model_fields if f"`{name}`" not in section("strategies.md", "The file")] == []
    text = section("strategies.md", "Provenance")
    assert [name for name in Provenance.model_fields if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_documented_as_it_is(name):
    preset = Strategy.preset(name)
    retention = ", ".join(map(str, preset.schedule.retention))
    average = f"{preset.average_retention(28):.2%}".replace("%", " %")
    row = f"| `{name}` | {preset.scorer.threshold} | {preset.recycler.cell} | {retention} | {average} |"
    assert row in section("strategies.md", "Presets")


def test_every_argument_of_the_search_is_documented_with_its_default():
    text = section("search.md", "Arguments")
    for name, parameter in inspect.signature(vflowopt.optimize).parameters.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        if parameter.default not in (inspect.Parameter.empty, None):
            assert f"default {parameter.default}" in row.replace('`"', "").replace('"`', ""), row


def test_the_search_space_is_documented_as_it_is():
    from vflowopt.strategies.variables import Choice, scales

    text = section("search.md", "The space")
    for name, scale in scales().items():
        if isinstance(scale, Choice):
            assert f"| `{name}` | {', '.join(scale.options[:-1])} or {scale.options[-1]}" in text
        else:
            assert f"| `{name}` | {scale.low:.0f} to {scale.high:.0f}" in text


def test_every_objective_is_documented():
    objectives = pytest.importorskip("vflowopt_hf.search.evaluator").OBJECTIVES
    assert [name for name in objectives if f"| `{name}` |" not in section("search.md", "The objective")] == []


def test_every_served_architecture_and_option_of_the_benchmark_is_documented():
    architectures = pytest.importorskip("vflowopt_vllm.architectures")
    arguments = pytest.importorskip("vflowopt_vllm.bench.arguments")
    served, gains = section("vllm.md", "Served models"), section("vllm.md", "What it gains")
    assert [name for name in architectures.BY_UPSTREAM if f"`{name}`" not in served] == []
    parser = argparse.ArgumentParser(add_help=False)
    arguments.add_options(parser)
    options = [action.option_strings[-1] for action in parser._actions if action.option_strings]
    assert [name for name in options if f"`{name}`" not in gains] == []
    assert len(options) > 5


def test_every_public_name_is_in_the_reference():
    text = read("api.md")
    assert [
        name
        for name in vflowopt.__all__
        if name not in ("__version__", "VFlowOptError") and f"::: vflowopt.{name}\n" not in text
    ] == []
    assert "::: vflowopt.errors\n" in text


def test_every_error_of_the_runtime_is_explained():
    text = read("how-it-works.md") + read("search.md") + read("strategies.md")
    raised = [
        name for name, value in vars(errors).items() if inspect.isclass(value) and value is not errors.VFlowOptError
    ]
    expected = set(raised) - {"PluginError"}  # shown by `vflowopt adapters`, not raised at users
    assert [name for name in sorted(expected) if f"`{name}`" not in text] == []


def test_every_member_of_a_family_is_documented():
    family = pytest.importorskip("vflowopt_hf.family")
    text = section("adapter-guide.md", "What a family has to tell")
    members = [name for name in {**vars(family.Family), **family.Family.__annotations__} if not name.startswith("_")]
    assert [name for name in members if f"| `{name}" not in text] == []
    fields = section("adapter-guide.md", "2. Units")
    assert [name for name in family.Unit.__dataclass_fields__ if f"| `{name}` |" not in fields] == []
