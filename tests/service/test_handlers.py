import httpx
import pytest
from fastapi import FastAPI

from service.errors import STATUS, InvalidInputError, QueueFullError, ServiceError
from service.handlers import add_error_handlers


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/double")
    async def double(number: int) -> int:
        return 2 * number

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("at line 7 of /srv/secret.py")

    @app.get("/invalid")
    async def invalid() -> None:
        raise InvalidInputError("it is 3, it must be 4")

    @app.get("/full")
    async def full() -> None:
        raise QueueFullError("m", "9 requests are waiting", "MAX_QUEUE_SIZE")

    @app.post("/double")
    async def doubled() -> None:
        pass

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def test_every_error_of_ours_has_a_status() -> None:
    def below(kind: type[ServiceError]) -> set[type[ServiceError]]:
        return {kind for child in kind.__subclasses__() for kind in (child, *below(child))}

    assert below(ServiceError) == set(STATUS)


async def test_what_pydantic_refuses_is_400_not_422(client: httpx.AsyncClient) -> None:
    answer = await client.get("/double", params={"number": "three"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("query.number: Input should be a valid integer")


async def test_405_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    answer = await client.put("/double")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert answer.json()["error"] == "PUT is not allowed here, it must be GET or POST"


async def test_a_bug_is_500_and_tells_nothing_of_the_inside(client: httpx.AsyncClient) -> None:
    answer = await client.get("/bug")
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed on this request; its log says why"}


async def test_an_error_of_ours_has_its_status_its_words_and_its_advice(client: httpx.AsyncClient) -> None:
    invalid, full = await client.get("/invalid"), await client.get("/full")
    assert (invalid.status_code, invalid.json()) == (400, {"error": "it is 3, it must be 4"})
    assert "retry-after" not in invalid.headers
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")


async def test_a_path_and_a_method_that_are_not_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/nowhere")).json() == {
        "error": "there is nothing at this path; /docs lists what there is"
    }
    wrong = await client.post("/bug")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json() == {"error": "POST is not allowed here, it must be GET"}
