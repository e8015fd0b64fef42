"""The HTTP server: listens, and on SIGTERM goes without anybody noticing.

Told to stop it says so (readiness, ``Connection: close``) and serves on for a while, so that whoever sends requests
can send them elsewhere. Then it listens no more, answers what is in flight and ends.
"""

import asyncio
import errno
import os
import signal
import socket
import time
from functools import partial
from types import FrameType

import uvicorn

from service.app import create_app
from service.http_protocol import HttpProtocol, Limits
from service.last_connections import refuse_new
from service.lifecycle import Lifecycle
from service.settings import Settings, refused
from service.starts import Starts
from service.tallies import Tallies

LEAST_GRACE_S = 30  # for requests in flight: deadlines and time-outs end them sooner, if they are not longer
IN_TRANSIT_S = 0.2  # for requests that were sent before their clients could know
TICKS_A_SECOND = 10  # of uvicorn's main loop


def check_address(settings: Settings) -> None:
    """Whether these settings' address can be listened on: uvicorn tries that only once the application has started.

    Raises SettingError naming the setting that stands in the way.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
    except socket.gaierror as error:
        raise refused("host", settings.host, f"no address of this machine: {error.strerror}") from error
    except OSError as error:
        name = "host" if error.errno == errno.EADDRNOTAVAIL else "port"
        raise refused(name, getattr(settings, name), f"it cannot be listened on: {error.strerror}") from error


class Server(uvicorn.Server):
    """One process's."""

    def __init__(self, settings: Settings, tallies: Tallies | None = None) -> None:
        """tallies: what one of several workers counts in. Raises SettingError (see ``create_app``)."""
        self._lifecycle = Lifecycle()
        self._drain_seconds = settings.drain_seconds
        self._drained_at: float | None = None  # once told to stop
        limits = Limits(
            settings.header_timeout_seconds,
            settings.body_timeout_seconds,
            settings.max_header_bytes,
            settings.max_connections,
        )
        super().__init__(
            uvicorn.Config(
                create_app(settings, self._lifecycle, tallies),
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http=partial(HttpProtocol, limits=limits, lifecycle=self._lifecycle, starts=Starts()),  # type: ignore[arg-type]
                backlog=max(2048, settings.max_connections),
                proxy_headers=False,  # nobody here asks for the client's address
                ws="none",  # nobody here speaks WebSocket, whatever library is installed
                lifespan="on",
                log_config=None,  # ours: log.py
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,  # longer than the idle time of common clients and proxies, who then close first
                timeout_graceful_shutdown=int(
                    max(LEAST_GRACE_S, settings.request_timeout_ms / 1e3, *limits.seconds) + 1
                ),
            )
        )

    @property
    def is_told(self) -> bool:
        """Whether it has been told to stop."""
        return self._drained_at is not None

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """Told to stop: by SIGTERM, go slowly; by Ctrl-C, at once when all is answered; told twice, at once."""
        if self.is_told:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._lifecycle.is_draining = True
        self._drained_at = time.monotonic() + (self._drain_seconds if sig == signal.SIGTERM else 0)
        for connection in self._connections():
            connection.drain()

    async def on_tick(self, counter: int) -> bool:
        """Look at every connection once a second, and whether it is time to end."""
        if counter % TICKS_A_SECOND == 0:
            self._look()
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen no more, and answer what had been sent by then."""
        looking = asyncio.create_task(self._look_on())
        try:
            await self._listen_no_more(sockets)
            await super().shutdown(sockets)
        finally:
            looking.cancel()

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._connections():
            connection.look(now)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._look()

    async def _listen_no_more(self, sockets: list[socket.socket] | None) -> None:
        listening = [socket.socket(fileno=os.dup(each.fileno())) for server in self.servers for each in server.sockets]
        if sockets is None:  # one that other workers have as well is theirs to listen on
            for listener in listening:
                refuse_new(listener)
            await asyncio.sleep(IN_TRANSIT_S)
        for server in (*self.servers, *(sockets or ())):
            server.close()
        # Clients that the kernel has connected and nobody has accepted yet would be reset.
        for listener in listening:
            await self._accept_all(listener)
        await asyncio.sleep(IN_TRANSIT_S)

    async def _accept_all(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop, accepted = asyncio.get_running_loop(), list[socket.socket]()
        with listener:
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except BlockingIOError:
                pass
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn.Server.startup makes them
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _connections(self) -> list[HttpProtocol]:
        return [each for each in list(self.server_state.connections) if isinstance(each, HttpProtocol)]
