"""Pages of other sites: refused unless a setting names them, with a key and without."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.openapi import DIGIT
from service.protocol import HEADER_LENGTH

OURS, OTHER = "https://app.example", "https://evil.example"
INFER = "/v2/models/ln-mlp-digits/infer"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
ALLOWED = "access-control-allow-origin"


def preflight(address: str, path: str, origin: str, method: str = "POST", headers: str = "") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    return httpx.options(
        address + path, headers=asked | ({"Access-Control-Request-Headers": headers} if headers else {})
    )


@pytest.fixture(scope="module")
def shared(serve: Any) -> Iterator[str]:
    with serve(cors_origins=f"http://localhost:3000, {OURS}", api_key="s3cret") as address:
        yield address


def test_by_default_no_page_of_another_site_may_ask(address: str) -> None:
    for path in (INFER, "/v2/models"):
        refused = preflight(address, path, OURS)
        assert refused.status_code == 405
        assert not any(name.startswith("access-control") for name in refused.headers)
    answer = httpx.post(address + INFER, json=BODY, headers={"Origin": OURS})
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("path", [INFER, "/v1/ops/layer_norm", "/v2/models"])
def test_a_preflight_needs_no_key(shared: str, path: str) -> None:
    headers = f"authorization,content-type,{HEADER_LENGTH},x-api-key,x-request-id"
    answer = preflight(shared, path, OURS, headers=headers)
    assert (answer.status_code, answer.headers[ALLOWED]) == (200, OURS)
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["x-request-id"]


def test_an_answer_names_the_origin_that_may_read_it(shared: str) -> None:
    for headers, status in (({"X-API-Key": "s3cret"}, 200), ({}, 401)):
        for method, path in (("POST", INFER), ("GET", "/v2/models")):
            body = BODY if method == "POST" else None
            answer = httpx.request(method, shared + path, json=body, headers=headers | {"Origin": OURS})
            assert (answer.status_code, answer.headers[ALLOWED], answer.headers["vary"]) == (status, OURS, "Origin")
            assert HEADER_LENGTH in answer.headers["access-control-expose-headers"]
            other = httpx.request(method, shared + path, json=body, headers=headers | {"Origin": OTHER})
            assert (other.status_code, ALLOWED in other.headers) == (status, False)
            plain = httpx.request(method, shared + path, json=body, headers=headers)
            assert (plain.status_code, ALLOWED in plain.headers) == (status, False)
            assert answer.content == plain.content == other.content


@pytest.mark.parametrize(
    ("origin", "method", "headers", "wrong"),
    [(OTHER, "POST", "", "origin"), (OURS, "DELETE", "", "method"), (OURS, "POST", "x-more", "headers")],
    ids=["origin", "method", "header"],
)
def test_a_preflight_that_asks_for_too_much_is_refused_in_words(
    shared: str, origin: str, method: str, headers: str, wrong: str
) -> None:
    answer = preflight(shared, INFER, origin, method, headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"Disallowed CORS {wrong}: the setting CORS_ORIGINS says")


def test_any_origin_may_ask_where_the_setting_is_a_star(serve: Any) -> None:
    with serve(cors_origins="*") as address:
        answer = httpx.post(address + INFER, json=BODY, headers={"Origin": OTHER})
        assert (answer.status_code, answer.headers[ALLOWED]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers
