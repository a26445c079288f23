"""Links between pages resolve, and files that the pages name exist."""

import re

import pytest
from markdown.extensions.toc import slugify

from docs.pages import DOCS, PAGES, REPOSITORY, headings, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:packages|tests|docs|examples)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    for target in LINK.findall(prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        aim = (DOCS / page).parent / name if name else DOCS / page
        assert aim.is_file(), target
        if anchor:
            linked = aim.resolve().relative_to(DOCS).as_posix()
            assert anchor in {slugify(heading, "-") for heading in headings(linked)}, target


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    for name in FILE.findall(prose(page)):
        assert (REPOSITORY / name).exists(), name


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f" {page}\n" not in navigation] == []
