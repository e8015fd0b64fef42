"""``python -m service``: read the settings, serve until told to stop; or ``check``."""

import signal
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from service.check import COMMAND, check
from service.log import configure_logging
from service.server import Server, check_address
from service.settings import SettingError, read_settings, said_of
from service.workers import Workers

USAGE_ERROR = 2


def main(arguments: Sequence[str]) -> int:
    """Serve; 0 after SIGTERM or Ctrl-C, 2 when a setting is wrong or asks for what this machine has not.

    ``check``: see check.py.
    """
    try:
        if arguments[:1] == [COMMAND]:
            return check(arguments[1:], sys.stdout, sys.stderr)
        settings = read_settings(arguments)
        check_address(settings)
        server = Server(settings)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            print(said_of(problem), file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    except SettingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    configure_logging(settings)
    if settings.workers > 1:
        return Workers(settings).run(server.config.bind_socket())
    for number in (signal.SIGTERM, signal.SIGINT):  # before uvicorn does, and until the very end
        signal.signal(number, server.handle_exit)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
