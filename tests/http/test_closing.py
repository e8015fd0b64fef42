"""The end of a connection whose client still sends: it gets its answer, and can end what it was about to send.

On Linux what has been received outlives a reset, so what a reset shows by is the client's write that fails.
"""

import http.client
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from tests.http.sockets import Client, connected, request, y_of

Process = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
Serve = Callable[..., AbstractContextManager[str]]
LARGE = bytes(64 * 2**20 + 1)  # more than the sockets of both sides hold, and than MAX_BODY_BYTES
SHORT_S = 0.5


def head(*headers: str, path: str = "/v2/models/layer_norm/infer", length: int = len(LARGE)) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {length}", *headers, "", "")).encode()


def sends_until_it_cannot(client: Client) -> None:
    deadline = monotonic() + 20
    while monotonic() < deadline:
        client.socket.send(b"x")
        sleep(0.1)


@pytest.mark.parametrize("path", ["/v2/models/layer_norm/infer", "/v2/models/nothing/infer"], ids=["413", "404"])
@pytest.mark.parametrize("close", [True, False], ids=["close", "keep"])
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(address: str, path: str, close: bool) -> None:
    with connected(address) as client:
        client.socket.sendall(head(*["Connection: close"] * close, path=path) + LARGE)
        assert client.answer()[0] == (404 if "nothing" in path else 413)
        if close:
            assert client.is_closed()
        else:
            client.socket.sendall(request())
            y_of(client.answer())


@pytest.mark.parametrize(("setting", "status"), [({"api_key": "k"}, 401), ({"max_connections": 1}, 503)])
def test_so_does_pythons_own(serve: Serve, setting: dict[str, object], status: int) -> None:
    with (
        serve(**setting) as address,
        connected(address),
        closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)) as connection,
    ):
        connection.request("POST", "/v2/models/layer_norm/infer", LARGE, {"Connection": "close"})
        answer = connection.getresponse()
        assert answer.status == status
        assert b"error" in answer.read()


def test_so_does_one_whose_head_is_too_large(address: str) -> None:
    with connected(address) as client:
        client.socket.sendall(b"GET /v2 HTTP/1.1\r\nX: " + LARGE.replace(b"\0", b"x"))
        assert client.answer()[0] == 431
        assert client.is_closed()


def test_so_does_one_whose_body_comes_too_late(serve: Serve) -> None:
    with serve(body_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(head(length=1000) + b"x")
        client.socket.recv(1, socket.MSG_PEEK)
        for _ in range(5):
            client.socket.sendall(b"x")
            sleep(0.02)
        assert client.answer()[0] == 408
        assert client.is_closed()


def test_so_does_one_that_sends_more_requests_than_are_answered(address: str) -> None:
    with connected(address) as client:
        client.socket.sendall(request("Connection: close") + request() * (len(LARGE) // len(request())))
        y_of(client.answer())
        assert client.is_closed()


def test_so_does_one_that_goes_on_with_what_is_not_http(address: str) -> None:
    with connected(address) as client:
        client.socket.sendall(request() + b"nothing" + LARGE)
        y_of(client.answer())
        assert client.is_closed()


def test_a_broken_body_behind_another_request_is_refused_in_its_turn(address: str) -> None:
    with connected(address) as client:
        chunked = request().split(b"\r\n\r\n")[0].replace(b"Content-Length: ", b"Transfer-Encoding: chunked\r\nX: ", 1)
        client.socket.sendall(request() + chunked + b"\r\n\r\nno chunk\r\n" + LARGE)
        y_of(client.answer())
        status, headers, body = client.answer()
        assert (status, headers["connection"], b"Invalid HTTP" in body) == (400, "close", True)
        assert client.is_closed()


def test_so_does_one_of_a_server_that_is_about_to_end(process: Process) -> None:
    with process("--drain-seconds", "0") as (running, address), connected(address) as client:
        client.socket.sendall(head(path="/v2/models/nothing/infer", length=2 * len(LARGE)) + LARGE)
        assert client.answer()[0] == 404
        running.send_signal(signal.SIGTERM)
        sleep(SHORT_S)
        client.socket.sendall(LARGE)
        assert client.is_closed()
        assert running.wait(20) == 0


def test_a_client_that_neither_sends_nor_leaves_does_not_keep_a_server_that_ends(process: Process) -> None:
    with process("--drain-seconds", "0") as (running, address), connected(address) as client:
        client.socket.sendall(head("Connection: close") + b"x")
        assert client.answer()[0] == 413
        assert client.is_closed()
        began = monotonic()
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        assert monotonic() - began < 10


def test_nor_does_one_that_sends_for_ever(process: Process) -> None:
    with process("--drain-seconds", "0", "--body-timeout-seconds", "60") as (running, address):
        with connected(address) as client:
            client.socket.sendall(head("Connection: close") + b"x")
            assert client.answer()[0] == 413
            running.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionError):
                sends_until_it_cannot(client)
        assert running.wait(20) == 0


@pytest.mark.parametrize("quiet_s", [0, 5], ids=["trickles", "quiet"])
def test_who_has_its_answer_is_not_listened_to_for_ever(serve: Serve, quiet_s: float) -> None:
    with serve(body_timeout_seconds=SHORT_S if quiet_s == 0 else 600) as address, connected(address) as client:
        client.socket.sendall(head("Connection: close") + b"x")
        assert client.answer()[0] == 413
        sleep(quiet_s)
        began = monotonic()
        with pytest.raises(ConnectionError):
            sends_until_it_cannot(client)
        assert quiet_s == 0 or monotonic() - began < 1


def test_an_answered_request_whose_body_never_ends_has_no_second_answer(serve: Serve) -> None:
    with serve(body_timeout_seconds=SHORT_S) as address, connected(address) as client:
        client.socket.sendall(head(path="/v2/models/nothing/infer") + b"x")
        assert client.answer()[0] == 404
        assert client.is_closed()
