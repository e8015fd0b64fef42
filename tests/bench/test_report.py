"""The table of the pages is that of the figures, and its goals are judged as they are meant."""

from pathlib import Path

import pytest

from bench.__main__ import PAGES
from bench.report import BEGIN, END, Line, line, markdown, values, write_between_marks
from experiments.results import read_results

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_table_of_a_page_is_made_of_the_figures(page: Path) -> None:
    results = read_results("http", ROOT / "bench" / "results")
    written = (ROOT / page).read_text().partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == markdown(PAGES[page](results), results)


def test_a_figure_is_the_median_and_its_goal_a_bound() -> None:
    figures = values([{"a": {"b": 1}}, {"a": {"b": 4}}, {"a": {"b": 2}}], "a", "b")
    found = line("x", figures, 2)
    assert (found.figure, found.spread, found.reached) == (2, "1 to 4", True)
    assert line("x", figures, 2.1).reached is False
    assert line("x", figures, 1.9, at_least=False).reached is False
    assert Line("x", None, "no such processor", 1).reached is None


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
    write_between_marks(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nbehind\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no"):
        write_between_marks(page, "new")
