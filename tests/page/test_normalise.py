"""Normalise a matrix: the numbers are the API's, and it is shown whom a change of one row moves."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
MATRIX = [[1.5, -2.0, 3.25, 0.0], [0.5, 10.0, -7.0, 2.0], [3.0, 3.0, 4.0, 5.0]]
PASTED = "1.5\t−2\t3.25\t0\n[0.5, 10; -7, 2]\n\n3 3 4 5\n"


def numbers(page: Page, place: str) -> list[list[float]]:
    rows = page.locator(f"#{place} tbody tr").all()
    return [[read(text) for text in row.locator("td").all_text_contents()] for row in rows]


def read(text: str) -> float:
    return float(text.removesuffix(" moved").replace("−", "-"))


def op(address: str, name: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{address}/v1/ops/{name}", json=body | {"return_stats": True}).json()
    return answer


def test_every_operation_shows_what_the_api_answers(visit: Visit, address: str) -> None:
    page = visit("normalise")
    page.get_by_role("textbox", name="Matrix").fill(PASTED)
    asked = {
        "layer_norm": op(address, "layer_norm", x=MATRIX),
        "rms_norm": op(address, "rms_norm", x=MATRIX),
        "group_norm": op(address, "group_norm", x=MATRIX, num_groups=2),
        "instance_norm": op(address, "instance_norm", x=[MATRIX]),
        "batch_norm": op(address, "batch_norm", x=MATRIX, training=True),
    }
    formulas = {each["name"]: each["formula"] for each in httpx.get(f"{address}/v1/ops").json()}
    for name, answer in asked.items():
        page.get_by_role("combobox", name="Operation").select_option(name)
        if name == "group_norm":
            page.get_by_role("combobox", name="Groups of columns").select_option("2")
        means = np.ravel(answer["mean"])
        expect(page.locator("#statistics tbody tr")).to_have_count(len(means))
        page.wait_for_load_state("networkidle")
        assert page.locator("#formula").inner_text() == formulas[name]
        assert np.array(numbers(page, "input-map")) == pytest.approx(np.array(MATRIX), abs=0.06)
        assert np.array(numbers(page, "output-map")) == pytest.approx(np.reshape(answer["y"], (3, 4)), abs=0.006)
        shown = np.array(numbers(page, "statistics"))
        assert shown[:, 0] == pytest.approx(means, rel=1e-3, abs=1e-9)
        variances = np.ravel(answer["inv_std"]) ** -2.0 - 1e-5
        assert shown[:, 1] == pytest.approx(variances, rel=1e-3, abs=1e-6)


def test_mean_scale_and_eps_are_moved_by_keyboard(visit: Visit, address: str) -> None:
    page = visit("normalise")
    expect(page.locator("#output-map td").first).to_be_attached()
    page.get_by_role("textbox", name="Matrix").fill(PASTED)
    page.get_by_role("slider", name="Mean, added").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    expect(page.locator("#eps-value")).to_have_text("1.0e+2")
    x = (np.array(MATRIX) * 100 + 3).tolist()
    y = np.array(op(address, "layer_norm", x=x, eps=100)["y"])
    expect(page.locator("#scale-value")).to_have_text("× 100")
    page.wait_for_load_state("networkidle")
    assert np.array(numbers(page, "input-map")) == pytest.approx(np.array(x), abs=0.6)
    assert np.array(numbers(page, "output-map")) == pytest.approx(y, abs=0.006)
    page.get_by_role("button", name="Reset").press("Enter")
    expect(page.locator("#mean-value")).to_have_text("0")
    expect(page.locator("#input-map tbody tr")).to_have_count(5)


def test_a_changed_row_moves_no_other_of_layer_norm_and_all_of_batch_norm(visit: Visit) -> None:
    page = visit("normalise", size="phone")
    expect(page.locator("#bn-count")).to_have_text("4 of 4 other rows moved")
    expect(page.locator("#ln-count")).to_have_text("0 of 4 other rows moved")
    page.get_by_role("combobox", name="Row", exact=True).select_option("3")
    expect(page.locator("#ln-moved tbody tr:nth-child(3) td.moved")).not_to_have_count(0)
    expect(page.locator("#ln-moved tbody tr:not(:nth-child(3)) td.moved")).to_have_count(0)
    expect(page.locator("#bn-moved td.moved")).to_have_count(5)  # the first column
    slider = page.get_by_role("slider", name="Added to its first number")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowLeft")
    expect(page.locator("#change-value")).to_have_text("0")
    expect(page.locator("td.moved")).to_have_count(0)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 2\n3", "Row 2 has 1 numbers, row 1 has 2: they must be as many."),
        ("1 2\n3 four", "Line 2: “four” is no number."),
        ("", "The matrix has no number in it."),
    ],
)
def test_what_is_no_matrix_is_said_to_be_none(visit: Visit, text: str, error: str) -> None:
    page = visit("normalise")
    page.get_by_role("textbox", name="Matrix").fill(text)
    expect(page.locator("#normalise-error")).to_have_text(error)
    page.get_by_role("textbox", name="Matrix").fill("1 2\n3 4")
    expect(page.locator("#normalise-error")).to_be_empty()


def test_an_error_of_the_api_is_shown_as_it_is(visit: Visit, address: str) -> None:
    error = httpx.post(f"{address}/v1/ops/batch_norm", json={"x": [[1, 2]], "training": True}).json()["error"]
    page = visit("normalise", refused=400)
    page.get_by_role("textbox", name="Matrix").fill("1 2")
    expect(page.locator("#normalise-error")).to_have_text(error)
