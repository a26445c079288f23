"""Every Python snippet of the guides runs, in order, and prints what the page says it prints."""

import textwrap

import pytest

from docs.pages import EXAMPLE, PAGES, blocks, section

GUIDE = "adapter-guide.md"

SHORTER = {"iterations=50": "iterations=2", "initial=10": "initial=4"}
"""Searches are cut short; nothing else of a snippet is changed."""

NEEDS = {
    "getting-started.md": "onevision",
    "how-it-works.md": "onevision",
    "search.md": "onevision",
    "strategies.md": "onevision",
    "write-a-component.md": "onevision",
    GUIDE: "deepseek_vl",
    "reference-model.md": "reference",
    "why-not-faster.md": "onevision",
}

NO_RUN = {
    "index.md": 1,  # prune and generate with a 7B checkpoint
    "getting-started.md": 2,  # load a checkpoint; prepare samples with its processor
    "vllm.md": 2,  # ask a server; start an engine
}
"""Snippets marked ``.no-run``, by page: each needs a real checkpoint, or a server of one."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))])
def test_snippets_run(page, request, tmp_path, monkeypatch, capsys):
    needs = "reference" if page.startswith("methods/") else NEEDS.get(page)
    names = dict(request.getfixturevalue(needs)) if needs else {}
    monkeypatch.chdir(tmp_path)
    every = blocks(page)
    files = {block.title: block.text for block in every if block.title.endswith((".py", ".toml"))}
    if page != GUIDE and "pyproject.toml" in files:  # the guide's fixture installs the whole example
        request.getfixturevalue("install")(files)
    for block, following in zip(every, [*every[1:], None], strict=True):
        if not block.runs or block.title in files:
            continue
        code = "\n" * (block.line - 1) + block.text
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        capsys.readouterr()
        exec(compile(code, str(page), "exec"), names)
        if following is not None and following.title == "prints":
            assert capsys.readouterr().out == following.text


def test_only_the_listed_snippets_do_not_run():
    found = {page: sum(b.language == "python" and not b.runs for b in blocks(page)) for page in PAGES}
    assert {page: count for page, count in found.items() if count} == NO_RUN


@pytest.mark.parametrize("page", PAGES)
def test_python_snippets_compile(page):
    for block in blocks(page):
        if block.language == "python":
            compile("\n" * (block.line - 1) + textwrap.dedent(block.text), page, "exec")


def excerpts():
    """Blocks of the adapter guide that are titled with a file of the example."""
    return [block for block in blocks(GUIDE) if block.title and (EXAMPLE / block.title).is_file()]


@pytest.mark.parametrize("block", excerpts(), ids=lambda block: f"line {block.line}")
def test_the_adapter_guide_quotes_the_example(block):
    assert f"\n{block.text}" in f"\n{(EXAMPLE / block.title).read_text(encoding='utf-8')}"


def test_the_adapter_guides_failure_is_what_the_kit_says(deepseek_vl):
    from vflowopt.testing import ConformanceError

    (wrong,) = (block for block in blocks(GUIDE) if block.title == "test_wrong.py")
    (told,) = (block for block in blocks(GUIDE) if block.language == "text" and block.title == "map alignment")
    names = dict(deepseek_vl)
    exec(compile("\n" * (wrong.line - 1) + wrong.text, GUIDE, "exec"), names)
    (mark,) = names["test_wrong"].pytestmark
    (check,) = (parameter.values[0] for parameter in mark.args[1] if parameter.id == told.title)
    with pytest.raises(ConformanceError) as raised:
        check()
    said = f"ConformanceError: {raised.value} {' '.join(raised.value.__notes__)}"
    assert said.split() == told.text.split()


def test_the_adapter_guide_explains_every_check():
    kit = pytest.importorskip("vflowopt_hf.testing")
    explained = section(GUIDE, "Reading a failure")
    assert [check.name for check in (*kit.GEOMETRY, *kit.RUNTIME) if f"`{check.name}`" not in explained] == []
