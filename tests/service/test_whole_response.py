"""A response in parts: the same bytes whether it goes out at once or in chunks."""

from typing import Any

import pytest

from service.whole_response import CHUNK_BYTES, WRITES_WHOLE, WholeResponse


async def messages(response: WholeResponse) -> list[dict[str, Any]]:
    sent = list[dict[str, Any]]()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    await response({"type": "http"}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("parts", "bodies"),
    [
        ([b"{}"], [2]),
        ([b"{}", memoryview(b"ab")], [4]),
        ([b"x" * CHUNK_BYTES], [CHUNK_BYTES]),
        ([b"head", memoryview(bytes(2 * CHUNK_BYTES + 1))], [4, CHUNK_BYTES, CHUNK_BYTES, 1, 0]),
    ],
    ids=["json", "binary", "just small", "large"],
)
async def test_small_ones_go_out_at_once_and_large_ones_in_chunks(parts: list[Any], bodies: list[int]) -> None:
    start, *rest = await messages(WholeResponse(parts, b"application/octet-stream", (b"x-more", b"1")))
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert headers["content-length"] == str(sum(map(len, parts)))
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-more"] == "1"
    assert [len(message["body"]) for message in rest] == bodies
    assert b"".join(message["body"] for message in rest) == b"".join(parts)
    assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]


@pytest.mark.parametrize("takes", [True, False])
async def test_a_server_that_takes_a_response_whole_gets_it_at_once(takes: bool) -> None:
    whole, sent = list[tuple[int, bytes]](), list[Any]()

    def write(status: int, response: bytes) -> bool:
        whole.append((status, response))
        return takes

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    response = WholeResponse([b"{}", memoryview(b"ab")], b"application/json", (b"x-more", b"1"), 429)
    await response({"type": "http", WRITES_WHOLE: write}, receive, send)
    assert whole == [(429, b"content-type: application/json\r\ncontent-length: 4\r\nx-more: 1\r\n\r\n{}ab")]
    assert [message.get("body") for message in sent] == ([] if takes else [None, b"{}ab"])
