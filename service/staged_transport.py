"""How a connection ends whose client still sends: in stages, or the client might never see its answer.

Where a socket is closed at once, the kernel answers what comes then with a reset. It fails the client's next write, and
may take from it what it has not read yet: the very answer that says why (RFC 9112, 9.6).
"""

import asyncio
import select
from collections.abc import Callable
from typing import Any

QUIET_S = 2  # without a byte: the client has sent what it meant to, and its kernel has our answer
LEAVING_S = 5  # at most, where the server is about to end


class StagedTransport(asyncio.Transport):
    """The event loop's transport. For those who write to it, it is closing from the first stage on."""

    __slots__ = ("_is_sending", "_lingers_since", "_transport", "heard_at", "is_lingering")

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        """is_sending: whether the client may be in the middle of something."""
        self._transport = transport
        self._is_sending = is_sending
        self._lingers_since = 0.0
        self.heard_at = 0.0  # the event loop's time, s; kept by who receives
        self.is_lingering = False  # what is received now is for nobody

    def close(self) -> None:
        """Send what is written and end; in stages where the client still sends."""
        if self.is_closing():
            return
        if self._is_sending() or self._has_unread():
            self.linger()
        else:
            self._transport.close()

    def linger(self) -> None:
        """Send what is written and that no more will come, and read on for a while."""
        if self.is_closing():
            return
        self.is_lingering = True
        self._lingers_since = self.heard_at = asyncio.get_running_loop().time()
        self._transport.write_eof()
        self._transport.resume_reading()  # to its end, at which the loop's transport closes by itself

    def look(self, now: float, most_s: float) -> None:
        """While it lingers: end when the client is quiet, or has gone on for ``most_s`` seconds."""
        is_over = now - self.heard_at > QUIET_S or now - self._lingers_since > most_s
        if is_over and not self._transport.get_write_buffer_size():
            self._transport.close()

    def _has_unread(self) -> bool:
        """Behind a request of ``Connection: close`` the parser passes over everything without a word."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    # ---- as it is ----------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self.is_lingering or self._transport.is_closing()

    def write(self, data: Any) -> None:
        """Behind what was written before."""
        self._transport.write(data)

    def abort(self) -> None:
        """End now, whatever is unsent."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """But not the last of it."""
        if not self.is_lingering:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """In bytes."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Such as the socket."""
        return self._transport.get_extra_info(name, default)
