"""What the tests see of a Markdown page: its fenced blocks with the comments above them, its headings, its links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("bash", "python", "js")
SHOWN = ("text", "json")

_FENCE = re.compile(
    r"^(?:<!-- (?P<comment>(?:(?!-->).)*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#{1,6} (.*?)\s*$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. comment: what stands above it in ``<!-- -->``; output: what the page shows under it."""

    line: int
    language: str
    code: str
    comment: str
    output: str | None = None

    @property
    def reason(self) -> str:
        """Why it is not run, or as output not compared; nothing where it is."""
        return self.comment.partition("not run: ")[2] if self.comment.startswith("not run: ") else ""


def fenced(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    return [
        Block(page.count("\n", 0, found.start("code")), found["language"], found["code"], found["comment"] or "")
        for found in _FENCE.finditer(page)
    ]


def examples(page: str) -> list[Block]:
    """The blocks that a reader may run, each with the output that is shown behind it."""
    found: list[Block] = []
    for block in fenced(page):
        if block.language in RUN:
            found.append(block)
        elif block.language in SHOWN and not block.reason:
            assert found, f"line {block.line}: output of no example"
            assert found[-1].output is None, f"line {block.line}: a second output of the example above"
            found[-1] = Block(**{**vars(found[-1]), "output": block.code})
    return found


def pages() -> list[Path]:
    """Every page of the repository."""
    tops = [ROOT, *(each for each in ROOT.iterdir() if each.is_dir() and each.name[0] != "." and each.name != "build")]
    return sorted(file for top in tops for file in (top.glob("*.md") if top == ROOT else top.rglob("*.md")))


def without_code(page: str) -> str:
    """The prose: neither fenced blocks nor code between backticks is a link."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page))


def links(page: str) -> list[str]:
    """Where its links and pictures lead, as they stand."""
    return _LINK.findall(without_code(page))


def anchors(page: str) -> set[str]:
    """What GitHub calls its headings: in small letters, without punctuation, a second one of the same with -1."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{name}-{count}"
        found.add(anchor)
    return found
