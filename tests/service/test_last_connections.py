"""A listening socket that lets no connection begin, and loses none that has."""

import socket
import sys

import pytest

from service.last_connections import refuse_new


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the filter is Linux's")
def test_what_has_begun_is_accepted_and_nothing_begins() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as before:
        refuse_new(listener)
        with socket.socket() as after:
            after.settimeout(0.2)
            with pytest.raises(TimeoutError):
                after.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            before.sendall(b"asked")
            assert accepted.recv(5) == b"asked"
            accepted.sendall(b"answered")
            assert before.recv(8) == b"answered"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
