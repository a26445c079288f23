"""Every Python snippet of the guides runs, in order, and prints what the page says it prints."""

import pytest

from docs.pages import PAGES, blocks

SHORTER = {"iterations=50": "iterations=2", "initial=10": "initial=4"}
"""Searches are cut short; nothing else of a snippet is changed."""

NEEDS = {
    "getting-started.md": "onevision",
    "search.md": "onevision",
    "strategies.md": "onevision",
    "write-a-component.md": "onevision",
    "adapter-guide.md": "llava_next",
    "reference-model.md": "reference",
}

NO_RUN = {
    "index.md": 1,  # prune and generate with a 7B checkpoint
    "getting-started.md": 2,  # load a checkpoint; prepare samples with its processor
}
"""Snippets marked ``.no-run``, by page: each needs a real checkpoint."""


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))])
def test_snippets_run(page, request, tmp_path, monkeypatch, capsys):
    names = dict(request.getfixturevalue(NEEDS[page])) if page in NEEDS else {}
    monkeypatch.chdir(tmp_path)
    every = blocks(page)
    files = {block.title: block.text for block in every if block.title.endswith((".py", ".toml"))}
    if "pyproject.toml" in files:
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
            compile("\n" * (block.line - 1) + block.text, page, "exec")


@pytest.mark.parametrize("size", [(60, 100), (100, 60), (42, 42), (30, 120), (120, 30), (7, 90), (84, 84)])
def test_the_adapter_guides_family_is_right(size, llava_next, install):
    """The guide's own adapter against a full-length forward with explicit masks, and against upstream's packing."""
    torch = pytest.importorskip("torch")

    from support.masked_oracle import oracle_logits, place, unpruned_embeddings
    from support.tiny import IMAGE
    from vflowopt import Strategy, prune

    install({block.title: block.text for block in blocks("adapter-guide.md") if block.title})
    model, inputs = llava_next["model"], llava_next["inputs_of_size"](*size)
    strategy = Strategy.vflowopt(num_layers=6, retention=(0.5, 0.7, 0.7), threshold=1.2, cell=2.5)
    with prune(model, strategy) as pruning, torch.no_grad():
        found = model(**inputs).logits
    (plan,) = pruning.plan
    plans = place(inputs["input_ids"], [plan], [IMAGE])
    expected = oracle_logits(model, unpruned_embeddings(model, inputs), inputs["attention_mask"], plans)
    scale = expected[0, -1].abs().max()
    assert (found[0, -1] - expected[0, -1]).abs().max() <= 1e-5 * scale
    grid = plan.position[plan.position[:, 0] == 1]
    assert len(grid) == (grid[:, 1].max() + 1) * (grid[:, 2].max() + 1)
    assert plan.structural.sum() == grid[:, 1].max() + 1
