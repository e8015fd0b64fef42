"""``python -m service``: read the settings, serve until told to stop."""

import logging
import signal
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.http_protocol import HttpProtocol
from service.settings import SettingError, Settings, read_settings, said_of

logger = logging.getLogger("service")

USAGE_ERROR = 2
GRACE_SECONDS = 30  # for requests in flight; a client that stalls must not keep the process alive


def main(arguments: Sequence[str]) -> int:
    """Serve; 0 after SIGTERM or Ctrl-C, 2 when a setting is wrong or asks for what this machine has not."""
    try:
        settings = read_settings(arguments)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            print(said_of(problem), file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    try:
        server = server_of(settings)
    except SettingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn ends by raising the signal it was stopped by once more, which would make an orderly end exit non-zero.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
    return 0


def server_of(settings: Settings) -> uvicorn.Server:
    """The server that will listen where the settings say. Raises SettingError (see ``create_app``)."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http=HttpProtocol,
            proxy_headers=False,  # nobody here asks for the client's address
            lifespan="on",
            log_config=None,  # ours, above
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,  # longer than the idle time of common clients and proxies, who then close first
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
