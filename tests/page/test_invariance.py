"""Many requests at once, compared byte by byte in the browser."""

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from service.protocol import HEADER_LENGTH

Visit = Callable[..., Page]


@pytest.mark.parametrize("model", ["ln-mlp-digits", "bn-cnn-digits", "ln-gru-charlm"])
def test_every_answer_of_a_model_equals_the_lone_one_and_those_of_batch_norm_in_training_do_not(
    visit: Visit, address: str, model: str
) -> None:
    def successes() -> int:
        stats = httpx.get(f"{address}/v2/models/{model}/stats").json()["model_stats"][0]
        return int(stats["inference_stats"]["success"]["count"])

    before = successes()
    page = visit("invariance")
    page.get_by_role("combobox", name="Model").select_option(model)
    page.get_by_role("spinbutton", name="Requests").fill("24")
    page.keyboard.press("Enter")
    expect(page.locator("#invariance-status")).to_contain_text("batch_norm in training")
    assert successes() - before == 25  # the lone one, too
    for trial in ("model-trial", "ln-trial"):
        expect(page.locator(f"#{trial} .count")).to_have_text("24 of 24 equal, byte for byte")
        expect(page.locator(f"#{trial} .squares .equal")).to_have_count(24)
    expect(page.locator("#bn-trial .count")).to_have_text("0 of 24 equal, byte for byte")
    expect(page.locator("#bn-trial .squares .other")).to_have_count(24)
    expect(page.locator("#model-trial .note")).to_contain_text("batches of 1 to")


def test_who_is_faster_than_the_page_is_answered_all_the_same(visit: Visit) -> None:
    page = visit("try")
    page.route("**/config", lambda route: (page.wait_for_timeout(20), route.continue_()))
    page.get_by_role("link", name="Invariance").click()
    page.get_by_role("button", name="Send them at once").press("Enter")
    expect(page.locator("#invariance-status")).to_contain_text("64 of 64 equal")


def test_other_bits_would_be_seen(visit: Visit) -> None:
    """The last answer has other lowest bits on its way to the browser."""
    page = visit("invariance", size="phone", scheme="dark")
    asked = list[Route]()

    def change_the_last(route: Route) -> None:
        asked.append(route)
        is_last = len(asked) == 1 + 6
        response = route.fetch()
        body = bytearray(response.body())
        if is_last:
            for at in range(int(response.headers[HEADER_LENGTH.lower()]), len(body), 4):
                body[at] ^= 1
        route.fulfill(response=response, body=bytes(body))

    page.route("**/v2/models/layer_norm/infer", change_the_last)
    page.get_by_role("spinbutton", name="Requests").fill("6")
    page.get_by_role("button", name="Send them at once").tap()
    expect(page.locator("#ln-trial .count")).to_have_text("5 of 6 equal, byte for byte")
    expect(page.locator("#ln-trial .squares .other")).to_have_count(1)
