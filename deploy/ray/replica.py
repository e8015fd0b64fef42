"""What a replica is, without Ray: its settings, its application, and whether it serves."""

import asyncio
import math

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.cores import available_cores
from service.request_id import REQUEST_ID, id_of, new_ids
from service.settings import SettingError, Settings, read_settings

READY_PATH = "/v2/health/ready"
LOOKS_AGAIN_S = 0.1  # while models load


def settings_of_replica(cpus: float, cores: int | None = None) -> Settings:
    """Those of the environment, for one of as many processes as fit on this node.

    cpus: that Ray grants each; cores: of the node, those there are. Ray counts cores and binds nobody to them: without
    this, each replica would run as many instances of a model as all those of its node together should.

    Raises SettingError and pydantic's ValidationError.
    """
    settings = read_settings([])
    if settings.workers != 1:
        raise SettingError(
            f"NORMSERVE_WORKERS is {settings.workers}: it must be 1 here, Ray's replicas are the workers"
        )
    if settings.model_control != "none":
        raise SettingError("NORMSERVE_MODEL_CONTROL must be none here: only one of the replicas would load or unload")
    beside_each_other = math.ceil((cores or available_cores()) / max(1, cpus))
    return settings.model_copy(update={"workers": beside_each_other})


def app_of_replica(settings: Settings) -> ASGIApp:
    """The service's, as Ray's proxy can talk to it.

    The proxy has given each request an id and adds it to the answer; here the log gets it too. Messages to it are
    pickled, which views of the memory of a large answer cannot be.
    """
    app, ids = create_app(settings), new_ids()

    async def of_replica(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_bytes(message: Message) -> None:
            if isinstance(message.get("body"), memoryview):
                message["body"] = bytes(message["body"])
            await send(message)

        if scope["type"] == "http":
            scope[REQUEST_ID] = id_of(scope["headers"], ids)
        await app(scope, receive, send_bytes)

    return of_replica


async def check_ready(app: ASGIApp) -> None:
    """Waits while models load: a replica must take no request that another could answer.

    Raises RuntimeError with the service's reason when it is not ready then.
    """
    while (answer := await _get(app, READY_PATH)).asks_again:  # noqa: ASYNC110  # the service has no event for it
        await asyncio.sleep(LOOKS_AGAIN_S)
    if answer.status != 200:
        raise RuntimeError(f"{READY_PATH} answers {answer.status}: {answer.body.decode()}")


class _Answer:
    """Collects what an application sends."""

    def __init__(self) -> None:
        self.status, self.asks_again, self.body = 0, False, b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.asks_again = any(name == b"retry-after" for name, _ in message["headers"])
        else:
            self.body += message.get("body", b"")


async def _get(app: ASGIApp, path: str) -> _Answer:
    async def receive() -> Message:
        return {"type": "http.request"}

    answer = _Answer()
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    await app(scope | {"headers": [], "root_path": "", "http_version": "1.1"}, receive, answer.send)
    return answer
