"""Links in Markdown lead to files and headings that are there."""

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT, anchors, fenced, links, pages

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT.resolve()), f"{link} leads out of the repository"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}: no heading is called so"


def test_every_page_of_docs_is_in_its_index() -> None:
    index = set(links((ROOT / "docs" / "README.md").read_text()))
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or page.name in index, page.name


def test_the_first_page_leads_to_the_index() -> None:
    assert "docs/README.md" in links((ROOT / "README.md").read_text())


def test_a_heading_is_called_what_github_calls_it() -> None:
    page = "# `GET /v2/{m}`: What's *new*?\n## Twice\n```bash\n# a comment\n```\n## Twice\n## A [link](b.md) – c\n"
    assert anchors(page) == {"get-v2m-whats-new", "twice", "twice-1", "a-link--c"}


def test_a_comment_further_up_is_none_of_a_blocks() -> None:
    page = "<!-- a mark -->\n[A link](b.md)\n\n<!-- not run: a reason -->\n```bash\nfalse\n```\n"
    assert [block.reason for block in fenced(page)] == ["a reason"]
    assert links(page) == ["b.md"]
