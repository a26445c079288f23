"""The pages of the documentation, taken apart: fenced blocks, headings, links."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
EXAMPLE = REPOSITORY / "examples" / "vflowopt-deepseek-vl"
"""The package that the adapter guide builds."""
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: first word of the info string.
        info: the rest of it.
        text: content.
        line: number of its first line in the page.
    """

    language: str
    info: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        """Whether it is Python that tests execute."""
        return self.language == "python" and ".no-run" not in self.info

    @property
    def title(self) -> str:
        found = re.search(r'title="([^"]+)"', self.info)
        return found.group(1) if found else ""


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        language, _, info = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(language, info, match["body"], line))
    return found


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def headings(page: str) -> list[str]:
    return [line.lstrip("#").strip() for line in prose(page).splitlines() if line.startswith("#")]


def section(page: str, heading: str) -> str:
    """The text from a heading to the next one of the same or a higher level."""
    lines = read(page).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("#") and line.lstrip("#").strip() == heading)
    level = len(lines[start]) - len(lines[start].lstrip("#"))
    taken, fenced = [], False
    for line in lines[start + 1 :]:
        fenced ^= line.startswith("```")
        depth = len(line) - len(line.lstrip("#"))
        if not fenced and 0 < depth <= level:
            break
        taken.append(line)
    return "\n".join(taken)
