"""What is served is there: named modules hold the named classes, named families exist. Imports no vLLM."""

import ast
from pathlib import Path

import pytest

from vflowopt_hf.family import Family
from vflowopt_vllm import architectures
from vflowopt_vllm.architectures import BY_NAME, BY_UPSTREAM

SOURCES = Path(architectures.__file__).parents[1]


@pytest.mark.parametrize("served", BY_UPSTREAM.values(), ids=lambda served: served.upstream)
def test_a_served_architecture(served):
    module, _, name = served.model.partition(":")
    tree = ast.parse(SOURCES.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    told = {ast.unparse(line.target): ast.unparse(line.value) for line in found.body if isinstance(line, ast.AnnAssign)}
    assert told["upstream"] == repr(served.upstream)
    assert isinstance(served.family(), Family)
    assert BY_NAME[served.name] is served
    assert served.name == "VFlowOpt" + served.upstream
