"""Whether the service in this container is ready: exit status 0 or 1, and why not.

The image's HEALTHCHECK runs this every few seconds as a process of its own, so it imports next to nothing: an HTTP
client would cost several times what the rest does.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0
READY = b"HTTP/1.1 200"
REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def problem(port: int) -> str | None:
    """What keeps the service on ``port`` of this machine from being ready, or None."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(REQUEST)
            answer = connection.recv(1024)
    except OSError as error:
        return f"no answer on port {port}: {error}"
    if answer.startswith(READY):
        return None
    return "not ready: " + answer.partition(b"\r")[0].decode(errors="replace")


if __name__ == "__main__":
    # Of the setting's two forms the variable alone: a flag is the other process's.
    sys.exit(problem(int(os.environ.get("NORMSERVE_PORT", "8000"))))
