"""Who is let through: by headers as a client may send them, right and wrong."""

import pytest
from pydantic import SecretStr

from service.api_key import ApiKey, open_paths

KEY = "s3cret/Key+=="


def refused(*headers: tuple[bytes, bytes], path: str = "/v2/models", metrics_without_key: bool = False) -> str | None:
    """The error, or None."""
    api_key = ApiKey(SecretStr(KEY), open_paths(metrics_without_key=metrics_without_key))
    response = api_key.refusal({"type": "http", "path": path, "headers": list(headers)})
    if response is None:
        return None
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    return bytes(response.body).decode()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer s3cret/Key+==")],
        [(b"authorization", b"bEARER   s3cret/Key+== ")],
        [(b"x-api-key", b"s3cret/Key+==")],
        [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", b"s3cret/Key+==")],
        [(b"authorization", b"Bearer of a proxy"), (b"authorization", b"Bearer s3cret/Key+==")],
        [(b"x-api-key", b""), (b"x-api-key", b"s3cret/Key+==")],
    ],
    ids=["bearer", "any case and spaces", "x-api-key", "beside another scheme", "second of two", "behind an empty one"],
)
def test_the_right_key_is_let_through(headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(*headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"s3cret/Key+=")],
        [(b"x-api-key", b"s3cret/Key+===")],
        [(b"x-api-key", b"S3CRET/KEY+==")],
        [(b"x-api-key", b"Bearer s3cret/Key+==")],
        [(b"x-api-key", "s3cret/Kéy+==".encode("latin-1"))],
        [(b"x-api-key", "s3cret/Kéy+==".encode())],
        [(b"x-api-key", b"\xff\xfe\x80")],
        [(b"x-api-key", b"wrong, s3cret/Key+==")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Bearer s3cret/Key+== more")],
        [(b"x-api-key", b"x" * 100_000)],
    ],
    ids=lambda headers: str(headers[0][1][:24]),
)
def test_a_wrong_key_is_refused_and_not_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    assert refused(*headers) == '{"error":"the API key is wrong"}'


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"s3cret/Key+==")],
        [(b"authorization", b"Basic s3cret/Key+==")],
        [(b"authorization", b"Bearers3cret/Key+==")],
        [(b"authorization", b"Token Bearer s3cret/Key+==")],
        [(b"proxy-authorization", b"Bearer s3cret/Key+==")],
        [(b"cookie", b"x-api-key=s3cret/Key+==")],
    ],
    ids=lambda headers: str(headers[0]) if headers else "none",
)
def test_who_shows_none_is_told_how_to(headers: list[tuple[bytes, bytes]]) -> None:
    assert "send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`" in (refused(*headers) or "")


@pytest.mark.parametrize(
    ("path", "is_open", "is_open_without_key"),
    [
        ("/v2/health/live", True, True),
        ("/v2/health/ready", True, True),
        ("/metrics", False, True),
        ("/metrics/", False, False),
        ("/v2/health/live/../../models", False, False),
        ("/v2/models/v2/health/live", False, False),
        ("/V2/health/live", False, False),
        ("//v2/health/live", False, False),
        ("/", False, False),
        ("/docs", False, False),
        ("/openapi.json", False, False),
    ],
)
def test_only_health_is_open_and_metrics_by_setting(path: str, is_open: bool, is_open_without_key: bool) -> None:
    assert (refused(path=path) is None) is is_open
    assert (refused(path=path, metrics_without_key=True) is None) is is_open_without_key
