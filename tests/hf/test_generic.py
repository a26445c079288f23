"""What is generic stays generic: the shared runtime and the core know no family by name."""

import ast
from pathlib import Path

import pytest

import vflowopt
import vflowopt_hf
from vflowopt.plugins import installed

RUNTIME, CORE = Path(vflowopt_hf.__file__).parent, Path(vflowopt.__file__).parent
REGISTERING = {RUNTIME / "plugin.py", RUNTIME / "adapters.py", CORE / "discovery" / "known_models.py"}
"""Lists of what there is; none of them decides anything about a model."""
SHARED = sorted(
    path
    for package in (RUNTIME, CORE)
    for path in package.rglob("*.py")
    if path not in REGISTERING and RUNTIME / "families" not in path.parents and CORE / "cli" not in path.parents
)


def known_names():
    """Model types and modules of transformers that built-in adapters claim."""
    return {kind for entry in installed().adapters for kind in entry.descriptor.model_types}


@pytest.mark.parametrize("path", SHARED, ids=lambda path: "/".join(path.parts[path.parts.index("src") + 1 :]))
def test_no_family_is_known_by_name(path):
    tree = ast.parse(path.read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert [name for name in imported if name.startswith("transformers.models.")] == []
    compared = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert compared & known_names() == set()
