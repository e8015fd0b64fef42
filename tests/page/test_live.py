"""What the server does: read from /metrics by the page as Prometheus' own client reads it."""

from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families

Visit = Callable[..., Page]
QUANTILES = """async ([before, after]) => {
  const { Reading, Interval } = await import("./web/prometheus.js");
  const now = new Interval(new Reading(before, 10), new Reading(after, 14), "m");
  return [now.rate("c_total"), now.mean("h"), now.quantile("h", 0.5), now.quantile("h", 0.99), now.mean("none")];
}"""
PARSE = """async (text) => {
  const { parseMetrics } = await import("./web/prometheus.js");
  return parseMetrics(text).map(({ name, labels, value }) => [name, labels, String(value)]);
}"""


def polls(page: Page) -> list[str]:
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/metrics") else None)
    return asked


def test_requests_are_seen_with_their_rate_latency_and_rows(visit: Visit) -> None:
    page = visit("live")
    expect(page.locator("#charts .now").first).to_have_text("0")
    page.get_by_role("button", name="Send 200 requests").click()
    expect(page.locator("#live-status")).to_contain_text("200 requests to")
    now = page.locator("#charts .now")
    expect(now.nth(1)).to_contain_text("median ")
    expect(now.nth(1)).not_to_contain_text("–")
    pictures = page.locator("#charts svg")
    assert [picture.get_attribute("aria-label") or "" for picture in pictures.all()][1].startswith(
        "Latency: now median"
    )
    drawn = [page.locator("#charts .line:not(.second)").nth(number).get_attribute("d") for number in range(4)]
    assert all(drawn)


def test_nothing_is_asked_while_it_is_paused_or_not_looked_at(visit: Visit) -> None:
    page = visit("live")
    asked = polls(page)
    expect(page.locator("#charts .now").first).to_have_text("0")
    page.get_by_role("button", name="Pause").press("Space")
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    before = len(asked)
    page.wait_for_timeout(2200)
    assert len(asked) == before
    with page.expect_request("**/metrics"):
        page.get_by_role("button", name="Pause").press("Space")
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.locator("#model h3")).to_be_visible()
    before = len(asked)
    page.wait_for_timeout(2200)
    assert len(asked) == before
    page.evaluate("Object.defineProperty(document, 'hidden', { value: true })")
    page.get_by_role("link", name="Live", exact=True).click()
    page.wait_for_timeout(500)
    assert len(asked) == before


def test_the_text_is_read_as_prometheus_reads_it(visit: Visit, address: str) -> None:
    text = httpx.get(f"{address}/metrics").text + 'odd{a="with \\"quotes\\", {braces}\\nand lines"} -Inf\n'
    page = visit("models")
    expected = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    parsed: list[Any] = page.evaluate(PARSE, text)
    assert len(parsed) > 500
    assert [(name, labels, float(value.replace("Infinity", "inf"))) for name, labels, value in parsed] == expected


def test_rates_means_and_quantiles_are_of_what_came_between(visit: Visit) -> None:
    page = visit("models")

    def text(count: int, buckets: tuple[int, int, int], total: float) -> str:
        lines = [f'h_bucket{{model="m",le="{le}"}} {at}' for le, at in zip((1, 2, "+Inf"), buckets, strict=True)]
        return "\n".join(
            [
                f'c_total{{model="m"}} {count}',
                'c_total{model="another"} 1000',
                *lines,
                f'h_count{{model="m"}} {buckets[-1]}',
                f'h_sum{{model="m"}} {total}',
            ]
        )

    answer = page.evaluate(QUANTILES, [text(10, (5, 5, 5), 2), text(30, (9, 11, 15), 22)])
    # 10 observations: 4 up to 1, 2 up to 2, 4 beyond: the fifth is the first of two between 1 and 2.
    assert answer == [5, 2, 1.5, 2, None]
    assert page.evaluate(QUANTILES, [text(30, (9, 9, 9), 9), text(8, (2, 2, 2), 1)])[:2] == [2, 0.5]  # started again
