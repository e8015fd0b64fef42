"""A client that knows what goes over the wire."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np

ROW = np.arange(768, dtype="f4").tobytes()
HEADER = (
    b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,768],"parameters":{"binary_data_size":3072}}],'
    b'"parameters":{"binary_data_output":true}}'
)


def request(*headers: str, version: str = "1.1", model: str = "layer_norm") -> bytes:
    lines = [
        f"POST /v2/models/{model}/infer HTTP/{version}",
        "Host: test",
        f"Content-Length: {len(HEADER) + len(ROW)}",
        f"Inference-Header-Content-Length: {len(HEADER)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + HEADER + ROW


class Client:
    """A socket, and the answers that come from it."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.file = connected.makefile("rb")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self.file.read(int(headers["content-length"])) if "content-length" in headers else b""

    def is_closed(self) -> bool:
        return self.file.read() == b""


@contextmanager
def connected(address: str, receive_buffer: int | None = None) -> Iterator[Client]:
    """receive_buffer: bytes, set before connecting, since a window made smaller afterwards opens 7 KiB every 200 ms."""
    parts = urlsplit(address)
    with socket.socket() as made:
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(20)
        made.connect((parts.hostname, parts.port))
        client = Client(made)
        with client.file:  # or the socket would stay open
            yield client


def y_of(answer: tuple[int, dict[str, str], bytes]) -> np.ndarray:
    status, headers, body = answer
    assert status == 200, body
    assert headers["date"]
    return np.frombuffer(body[int(headers["inference-header-content-length"]) :], "f4")
