"""Draw a digit, type a text: what the page shows is what the API answers."""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Request, expect

from service.protocol import HEADER_LENGTH

Visit = Callable[..., Page]
DIGITS = ["ln-mlp-digits", "bn-mlp-digits", "ln-cnn-digits", "bn-cnn-digits"]
TEXTS = ["ln-lstm-charlm", "pre-ln-charlm", "post-ln-charlm", "admin-charlm"]


class Sent:
    """The last tensor that the page has sent to each model."""

    def __init__(self, page: Page) -> None:
        self.of: dict[str, np.ndarray[Any, Any]] = {}
        page.on("request", self._take)

    def _take(self, request: Request) -> None:
        if found := re.search(r"/v2/models/([\w-]+)/infer$", request.url):
            body = request.post_data_buffer or b""
            length = int(request.headers[HEADER_LENGTH.lower()])
            (tensor,) = json.loads(body[:length])["inputs"]
            dtype = {"FP32": "<f4", "INT64": "<i8"}[tensor["datatype"]]
            self.of[found[1]] = np.frombuffer(body[length:], dtype).reshape(tensor["shape"])


def probabilities(address: str, model: str, x: np.ndarray[Any, Any]) -> list[float]:
    """Of the last row of logits that the API answers."""
    datatype = "FP32" if x.dtype == np.float32 else "INT64"
    name = "x" if datatype == "FP32" else "ids"
    body = {"inputs": [{"name": name, "datatype": datatype, "shape": list(x.shape), "data": x.ravel().tolist()}]}
    output = httpx.post(f"{address}/v2/models/{model}/infer", json=body).json()["outputs"][0]
    logits = output["data"][-output["shape"][-1] :]
    powers = [math.exp(each - max(logits)) for each in logits]
    return [power / sum(powers) for power in powers]


def card(page: Page, model: str) -> Any:
    return page.locator(".card", has=page.get_by_role("heading", name=model, exact=True))


def shares(page: Page, model: str) -> list[float]:
    return [float(text.rstrip(" %")) / 100 for text in card(page, model).locator(".share").all_inner_texts()]


def settled(page: Page, part: str, said: str) -> None:
    """Until the answer has been read aloud, which is when nothing has been asked for a while."""
    expect(page.locator(f"#{part}-status")).to_contain_text(said)


def assert_digits_are_the_apis(page: Page, address: str, sent: Sent) -> None:
    for model in DIGITS:
        assert shares(page, model) == pytest.approx(probabilities(address, model, sent.of[model]), abs=6e-4), model


def test_each_digit_of_the_data_set_is_recognised_with_the_apis_probabilities(visit: Visit, address: str) -> None:
    page = visit()
    sent = Sent(page)
    settled(page, "digits", "ln-mlp-digits: 3,")
    assert page.locator("#digit-answers h4").all_inner_texts() == DIGITS
    for digit in (0, 7):
        page.get_by_role("button", name=f"a {digit}", exact=True).click()
        settled(page, "digits", f"ln-mlp-digits: {digit},")
        assert_digits_are_the_apis(page, address, sent)
        assert page.locator("#digit-answers .best strong").all_inner_texts() == [str(digit)] * 4


def test_a_digit_is_drawn_with_the_mouse(visit: Visit, address: str) -> None:
    page = visit()
    settled(page, "digits", "ln-mlp-digits: 3,")
    sent = Sent(page)
    page.get_by_role("button", name="Clear").click()
    box = page.locator("#pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.6, steps=8)
    page.mouse.up()
    expect(page.locator("#digits-status")).not_to_contain_text("99.7 %")
    page.wait_for_load_state("networkidle")
    short = sent.of["ln-mlp-digits"].reshape(8, 8) * 16
    assert np.array_equal(short, short.round())
    assert short[:, [0, 1, 2, 5, 6, 7]].max() == 0
    assert short[6:].max() == 0 < short[1:5, 3:5].min()
    page.get_by_role("button", name="Fit").click()
    settled(page, "digits", "ln-mlp-digits: 1,")
    tall = sent.of["ln-mlp-digits"].reshape(8, 8)
    assert tall[0].max() > 0 < tall[7].max()
    assert_digits_are_the_apis(page, address, sent)


def test_a_digit_is_drawn_by_keyboard_alone(visit: Visit, address: str) -> None:
    page = visit()
    settled(page, "digits", "ln-mlp-digits: 3,")
    sent = Sent(page)
    page.keyboard.press("Tab")  # Skip to the content
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "pad-clear":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.id") == "pad"
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#pad-status")).to_have_text("row 1, column 4: 0 of 16")
    for _ in range(7):
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("-")
    expect(page.locator("#pad-status")).to_have_text("row 8, column 4: 12 of 16")
    settled(page, "digits", "ln-mlp-digits: 1,")
    expected = np.zeros((8, 8), "f4")
    expected[:7, 3], expected[7, 3] = 1, 0.75
    for model in DIGITS:
        assert np.array_equal(sent.of[model].reshape(8, 8), expected)
    assert_digits_are_the_apis(page, address, sent)


def test_a_digit_is_drawn_with_a_finger_on_a_phone(visit: Visit, address: str) -> None:
    page = visit(size="phone", scheme="dark")
    settled(page, "digits", "ln-mlp-digits: 3,")
    sent = Sent(page)
    page.get_by_role("button", name="Clear").tap()
    box = page.locator("#pad").bounding_box()
    assert box
    finger = page.context.new_cdp_session(page)
    for step in range(9):
        x, y = box["x"] + box["width"] * 0.5, box["y"] + box["height"] * (0.1 + 0.1 * step)
        touches = [{"x": x, "y": y}]
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove" if step else "touchStart", "touchPoints": touches})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settled(page, "digits", "ln-mlp-digits: 1,")
    drawn = sent.of["ln-mlp-digits"].reshape(8, 8)
    assert drawn[1:7, 3:5].min() >= 0.5
    assert page.evaluate("scrollY") == 0  # the finger drew, and did not scroll
    assert_digits_are_the_apis(page, address, sent)


def test_a_text_is_gone_on_with_by_what_each_model_says(visit: Visit, address: str) -> None:
    page = visit()
    sent = Sent(page)
    settled(page, "text", "pre-ln-charlm: e,")
    assert page.locator("#text-answers h4").all_inner_texts() == TEXTS
    alphabet = httpx.get(f"{address}/v2/models/pre-ln-charlm/config").json()["alphabet"]
    page.get_by_role("textbox", name="Text, as in").fill("The import statemen")
    settled(page, "text", "pre-ln-charlm: t,")
    for model in TEXTS:
        assert "".join(alphabet[each] for each in sent.of[model][0]) == "The import statemen"
        expected = sorted(probabilities(address, model, sent.of[model]), reverse=True)[:8]
        assert shares(page, model) == pytest.approx(expected, abs=6e-4), model
    card(page, "admin-charlm").get_by_role("button", name="go on with t").press("Enter")
    expect(page.get_by_role("textbox", name="Text, as in")).to_have_value("The import statement")
    page.get_by_role("checkbox", name="lstm-charlm", exact=True).check()
    expect(page.locator("#text-answers h4")).to_have_count(5)


def test_a_text_that_cannot_be_asked_about_is_said_to_be_one(visit: Visit) -> None:
    page = visit()
    settled(page, "text", "pre-ln-charlm: e,")
    text = page.get_by_role("textbox", name="Text, as in")
    text.fill("naïve")
    expect(page.locator("#text-error")).to_have_text("“ï” is none of the characters these models were trained with.")
    text.fill("")
    expect(page.locator("#text-error")).to_have_text("Type at least one character.")
    text.fill("naive")
    expect(page.locator("#text-error")).to_be_empty()
