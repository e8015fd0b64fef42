"""Connections as HTTP has them: answers that are written at once must keep to the rules of those that are not."""

from contextlib import suppress
from time import sleep

import pytest

from tests.http.sockets import connected, request, y_of


def test_one_connection_carries_many_requests(process_address: str) -> None:
    with connected(process_address) as client:
        for _ in range(3):
            client.socket.sendall(request())
            assert y_of(client.answer()).shape == (768,)


def test_pipelined_requests_are_answered_in_their_order(process_address: str) -> None:
    with connected(process_address) as client:
        client.socket.sendall(request() + request(model="rms_norm") + request(model="nothing") + request())
        first, second, third, fourth = (client.answer() for _ in range(4))
        assert y_of(first).tobytes() == y_of(fourth).tobytes() != y_of(second).tobytes()
        assert third[0] == 404


@pytest.mark.parametrize(
    ("headers", "version"), [(["Connection: close"], "1.1"), ([], "1.0")], ids=["close", "HTTP/1.0"]
)
def test_a_connection_that_is_to_end_ends_behind_its_answer(
    process_address: str, headers: list[str], version: str
) -> None:
    with connected(process_address) as client:
        client.socket.sendall(request(*headers, version=version))
        answer = client.answer()
        assert y_of(answer).shape == (768,)
        assert answer[1]["connection"] == "close"
        assert client.is_closed()


def test_a_client_that_waits_for_100_continue_gets_it(process_address: str) -> None:
    with connected(process_address) as client:
        head, body = request("Expect: 100-continue").split(b"\r\n\r\n", 1)
        client.socket.sendall(head + b"\r\n\r\n")
        assert client.answer()[0] == 100
        client.socket.sendall(body)
        assert y_of(client.answer()).shape == (768,)


def test_a_body_that_comes_byte_by_byte_is_a_body(process_address: str) -> None:
    with connected(process_address) as client:
        whole = request()
        for start in range(0, len(whole), 97):
            client.socket.sendall(whole[start : start + 97])
        assert y_of(client.answer()).shape == (768,)


def test_a_client_that_does_not_read_gets_all_answers_once_it_does(process_address: str) -> None:
    """More than a socket holds: the answers of later requests are not written past those that still wait."""
    pending = request() * 2000
    with connected(process_address, receive_buffer=4096) as client:
        sent = 0
        client.socket.setblocking(False)
        with suppress(BlockingIOError):
            while sent < len(pending):
                sent += client.socket.send(pending[sent : sent + 2**16])
        assert 0 < sent < len(pending)  # the server stopped reading, for it could not write
        client.socket.settimeout(60)
        first = y_of(client.answer())
        for _ in range(sent // len(request()) - 1):
            assert y_of(client.answer()).tobytes() == first.tobytes()


UPGRADE = ("Connection: Upgrade", "Upgrade: h2c")


def test_a_wish_for_another_protocol_is_not_heard(process_address: str) -> None:
    """Java's client says so with the first request of every connection."""
    with connected(process_address) as client:
        websocket = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        client.socket.sendall(request(*UPGRADE) + websocket + request(*UPGRADE) + request(model="rms_norm"))
        first, second, third, fourth = (client.answer() for _ in range(4))
        assert y_of(first).tobytes() == y_of(third).tobytes() != y_of(fourth).tobytes()
        assert (second[0], second[2]) == (200, b'{"live":true}')


def test_its_body_may_come_later_and_in_chunks(process_address: str) -> None:
    with connected(process_address) as client:
        head, body = request(*UPGRADE).split(b"\r\n\r\n", 1)
        chunked = head.replace(b"Content-Length: %d\r\n" % len(body), b"Transfer-Encoding: chunked\r\n", 1)
        client.socket.sendall(chunked + b"\r\n\r\n")
        sleep(0.1)  # so that it is read by itself
        client.socket.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert y_of(client.answer()).shape == (768,)
        client.socket.sendall(request())
        y_of(client.answer())


def test_a_tunnel_is_refused_and_what_would_go_through_it_is_no_request(process_address: str) -> None:
    with connected(process_address) as client:
        client.socket.sendall(b"CONNECT /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + request() * 1000)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (405, "close")
        assert client.is_closed()
