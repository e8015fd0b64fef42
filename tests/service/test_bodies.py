"""What request bodies hold together: counted as it comes, and given back."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.bodies import UNCOUNTED_BYTES, Bodies
from service.body import PIECE_BYTES, read_body
from service.call import Call
from service.errors import BodiesFullError, BodyTooLargeError, ClientGoneError, InvalidInputError, ServiceError
from service.turns import Turns

MIB = 2**20
MOST = 64 * MIB
GZIP = {b"content-encoding": b"gzip"}


def call() -> Call:
    return Call(60)


def sends(*chunks: bytes | None) -> Callable[[], Any]:
    """A client that sends these and then nothing more; None: it leaves."""
    messages = [
        {"type": "http.disconnect"} if chunk is None else {"type": "http.request", "body": chunk, "more_body": True}
        for chunk in chunks
    ]
    messages[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return receive


class Stalled:
    """A client that sends some and stops."""

    def __init__(self, chunk: bytes) -> None:
        self._chunks = [chunk]
        self.has_stopped = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self._chunks:
            self.has_stopped.set()
            await asyncio.Event().wait()
        return {"type": "http.request", "body": self._chunks.pop(), "more_body": True}


async def read(bodies: Bodies, headers: dict[bytes, bytes], *chunks: bytes | None, most: int = MOST) -> bytes:
    """As the endpoints do."""
    mine = call()
    try:
        return bytes(await read_body(headers, sends(*chunks), most, mine, bodies))
    finally:
        bodies.let_go(mine)


async def test_a_body_is_counted_as_it_comes_and_not_as_it_was_announced() -> None:
    bodies, mine = Bodies(10 * MIB), call()
    client = Stalled(bytes(MIB))
    reading = asyncio.create_task(read_body({b"content-length": b"9437184"}, client.receive, MOST, mine, bodies))
    await client.has_stopped.wait()
    assert bodies.nbytes == MIB
    assert len(await read(bodies, {}, bytes(8 * MIB), bytes(MIB))) == 9 * MIB
    assert bodies.nbytes == MIB
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    bodies.let_go(mine)
    assert bodies.nbytes == 0


async def test_what_does_not_fit_beside_the_others_is_refused_in_words() -> None:
    bodies, other = Bodies(4 * MIB), call()
    bodies.hold(other, 3 * MIB)
    with pytest.raises(BodiesFullError) as refused:
        await read(bodies, {}, bytes(MIB), b"x")
    assert str(refused.value) == (
        "the bodies of other requests have 3145728 bytes, all together may have 4194304 (the server's setting "
        "MAX_BODIES_BYTES): try again"
    )
    assert refused.value.retry_after_seconds == 1
    assert len(await read(bodies, {}, bytes(MIB))) == MIB
    bodies.let_go(other)
    assert len(await read(bodies, {}, bytes(MIB), b"x")) == MIB + 1
    assert bodies.nbytes == 0


async def test_a_body_that_is_announced_too_large_is_refused_before_it_is_read() -> None:
    bodies = Bodies(4 * MIB)
    bodies.hold(call(), 3 * MIB)

    async def receive() -> dict[str, Any]:
        raise AssertionError("it was read")

    with pytest.raises(BodiesFullError):
        await read_body({b"content-length": b"1048577"}, receive, MOST, call(), bodies)


async def test_a_small_body_is_not_counted_and_never_refused() -> None:
    bodies = Bodies(MIB)
    bodies.hold(call(), MIB)
    mine = call()
    chunks = bytes(UNCOUNTED_BYTES - 1), b"x"
    assert len(await read_body({b"content-length": b"65536"}, sends(*chunks), MOST, mine, bodies)) == UNCOUNTED_BYTES
    assert (mine.body_bytes, bodies.nbytes) == (0, MIB)
    with pytest.raises(BodiesFullError):
        await read(bodies, {}, *chunks, b"x")
    assert bodies.nbytes == MIB


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
@pytest.mark.parametrize("pattern", ["zeros", "noise"])
async def test_an_inflated_body_holds_what_it_is_and_not_what_it_might_have_been(size: int, pattern: str) -> None:
    plain = bytes(size) if pattern == "zeros" else np.random.default_rng(7).bytes(size)
    for headers, sent in ((GZIP, gzip.compress(plain)), ({b"content-encoding": b"deflate"}, zlib.compress(plain))):
        bodies, mine = Bodies(MIB), call()
        assert bytes(await read_body(headers, sends(sent), MOST, mine, bodies)) == plain
        assert bodies.nbytes == mine.body_bytes == (size if size > UNCOUNTED_BYTES else 0)
        bodies.let_go(mine)
        assert bodies.nbytes == 0


async def test_a_bomb_stops_to_inflate_where_the_others_leave_no_room() -> None:
    bodies, other = Bodies(8 * MIB), call()
    bodies.hold(other, 3 * MIB)
    mine = call()
    with pytest.raises(BodiesFullError):
        await read_body(GZIP, sends(gzip.compress(bytes(60 * MIB))), MOST, mine, bodies)
    assert 3 * MIB < mine.body_bytes <= 5 * MIB
    bodies.let_go(mine)
    assert bodies.nbytes == 3 * MIB


async def test_one_body_alone_may_always_inflate() -> None:
    """Or with the least that the setting may be, the largest body could never come as gzip."""
    plain = np.random.default_rng(7).bytes(3 * MIB - 2**14)
    assert await read(Bodies(3 * MIB), GZIP, gzip.compress(plain), most=3 * MIB) == plain


@pytest.mark.parametrize(
    ("headers", "chunks", "error"),
    [
        ({}, (bytes(MIB), None), ClientGoneError),
        ({}, (bytes(MIB), bytes(MIB)), BodyTooLargeError),
        (GZIP, (gzip.compress(bytes(2 * MIB)),), BodyTooLargeError),
        (GZIP, (gzip.compress(np.random.default_rng(7).bytes(MIB))[:-4],), InvalidInputError),
        (GZIP, (gzip.compress(np.random.default_rng(7).bytes(MIB)) + bytes(MIB // 4),), InvalidInputError),
        (GZIP, (bytes(MIB),), InvalidInputError),
    ],
    ids=["left", "too large", "too large inflated", "half", "more behind it", "no gzip"],
)
async def test_nothing_is_held_after_a_failure(
    headers: dict[bytes, bytes], chunks: tuple[bytes | None, ...], error: type[ServiceError]
) -> None:
    bodies = Bodies(16 * MIB)
    with pytest.raises(error):
        await read(bodies, headers, *chunks, most=MIB + MIB // 2)
    assert bodies.nbytes == 0


@pytest.mark.parametrize(
    ("sent", "headers"),
    [(bytes(UNCOUNTED_BYTES + 1), {}), (gzip.compress(bytes(UNCOUNTED_BYTES + 1)), GZIP)],
    ids=["plain", "gzip"],
)
async def test_a_body_without_tensors_is_told_of_no_setting_that_would_not_help(
    sent: bytes, headers: dict[bytes, bytes]
) -> None:
    with pytest.raises(BodyTooLargeError, match="than 65536 bytes, the most this server takes without tensors$"):
        await read_body(headers, sends(sent), UNCOUNTED_BYTES, call(), None)


async def test_large_json_takes_turns() -> None:
    """In the order in which it came, and one that is larger than all room alone."""
    turns, order, leave = Turns(10), list[str](), {name: asyncio.Event() for name in "abcd"}

    async def work(name: str, nbytes: int) -> None:
        async with turns.of(nbytes):
            order.append(name)
            await leave[name].wait()

    async def settled() -> list[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return order

    tasks = [asyncio.create_task(work(name, nbytes)) for name, nbytes in zip("abcd", (6, 4, 32, 1), strict=True)]
    assert await settled() == ["a", "b"]
    leave["a"].set()
    assert await settled() == ["a", "b"]
    leave["b"].set()
    assert await settled() == ["a", "b", "c"]
    leave["c"].set()
    assert await settled() == ["a", "b", "c", "d"]
    leave["d"].set()
    await asyncio.gather(*tasks)
    assert turns.nbytes == 0


async def test_who_gives_up_a_turn_or_fails_in_it_keeps_no_room() -> None:
    turns, entered = Turns(10), asyncio.Event()

    async def work() -> None:
        async with turns.of(8):
            entered.set()
            await asyncio.Event().wait()

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    await entered.wait()
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    with pytest.raises(ValueError, match="within"):
        async with turns.of(10):
            raise ValueError("within")
    async with asyncio.timeout(20), turns.of(10):
        assert turns.nbytes == 10
    assert turns.nbytes == 0
