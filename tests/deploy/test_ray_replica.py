import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.oip import BINARY, encoded
from deploy.ray.replica import app_of_replica, check_ready, settings_of_replica
from service.request_id import REQUEST_ID
from service.settings import SettingError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMSERVE_MODEL_REPOSITORY", str(ROOT / "artifacts"))


@pytest.mark.parametrize(
    ("cpus", "cores", "beside_each_other"),
    [(1, 16, 16), (2, 16, 8), (3, 4, 2), (16, 16, 1), (8, 4, 1), (0.5, 2, 2), (0, 4, 4)],
)
def test_replicas_of_a_node_share_its_cores(cpus: float, cores: int, beside_each_other: int) -> None:
    assert settings_of_replica(cpus, cores).workers == beside_each_other


@pytest.mark.parametrize(("name", "value"), [("WORKERS", "2"), ("MODEL_CONTROL", "explicit"), ("WORKER", "1")])
def test_a_setting_that_a_replica_cannot_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"NORMSERVE_{name}", value)
    with pytest.raises(SettingError, match=f"NORMSERVE_{name}"):
        settings_of_replica(1)


def answering(*answers: tuple[int, dict[bytes, bytes], bytes]) -> ASGIApp:
    left = list(answers)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        assert (scope["method"], scope["path"]) == ("GET", "/v2/health/ready")
        status, headers, body = left.pop(0)
        await send({"type": "http.response.start", "status": status, "headers": list(headers.items())})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_a_replica_is_healthy_once_its_models_are_loaded() -> None:
    loading = (503, {b"retry-after": b"1"}, b"")
    await check_ready(answering(loading, loading, (200, {}, b"")))


async def test_a_replica_that_can_serve_nothing_is_not_healthy_and_says_why() -> None:
    with pytest.raises(RuntimeError, match="503.*no model can be served"):
        await check_ready(answering((503, {}, b'{"error": "no model can be served"}')))


@asynccontextmanager
async def started(app: ASGIApp) -> AsyncIterator[None]:
    """Its lifespan, as Ray and uvicorn run it."""
    received, sent = asyncio.Queue[dict[str, str]](), asyncio.Queue[dict[str, str]]()
    running = asyncio.create_task(app({"type": "lifespan"}, received.get, sent.put))  # type: ignore[arg-type]
    for stage in ("startup", "shutdown"):
        await received.put({"type": f"lifespan.{stage}"})
        assert (await sent.get())["type"] == f"lifespan.{stage}.complete"
        if stage == "startup":
            yield
    await running


async def test_a_replica_is_the_service_as_the_proxy_can_talk_to_it() -> None:
    app, scopes = app_of_replica(settings_of_replica(1)), list[Scope]()

    body, headers = encoded({"x": np.ones((512, 1024), "f4")}, BINARY, {})
    sent = list[Message]()

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        async def keep(message: Message) -> None:
            sent.append(message)
            await send(message)

        scopes.append(scope)
        await app(scope, receive, keep)

    async with started(app):
        await asyncio.wait_for(check_ready(app), 60)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(seen), base_url="http://replica") as client:
            answer = await client.get("/v2/models/ln-mlp-digits", headers={"X-Request-ID": "proxy-1"})
            large = await client.post("/v2/models/layer_norm/infer", content=body, headers=headers)
    assert large.status_code == 200
    assert all(type(message.get("body", b"")) is bytes for message in sent)  # what can be pickled
    assert len(sent) > 4
    assert answer.json()["name"] == "ln-mlp-digits"
    assert scopes[0][REQUEST_ID] == b"proxy-1"
