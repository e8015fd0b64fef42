"""A program for atheris: whatever bytes it draws become a request to the whole application, without a socket.

``python -m bench.fuzz CORPUS -max_total_time=600``: ends with an exit status other than 0 at the first request that is
answered with a 5xx or an undocumented status, and says which it was. CORPUS is a folder for the requests that reach new
code; at first those of bench/asks.py are put there.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import atheris
from starlette.types import Message

with atheris.instrument_imports(include=["service"]):  # first, or what the others import would not be
    from service.app import create_app
    from service.settings import Settings

from bench.asks import mixed
from bench.mutations import TOKENS
from bench.oip import HEADER_LENGTH

MODELS = ("ln-mlp-digits", "ln-gru-charlm")  # quick ones: of one tensor, and of optional ones
PATHS = [
    *(f"/v2/models/{name}/infer" for name in (*MODELS, "layer_norm", "group_norm", "batch_norm")),
    *(f"/v1/ops/{name}" for name in ("layer_norm", "group_norm", "instance_norm", "batch_norm")),
    "/v2/repository/index",
]
ENCODINGS = [b"", b"identity", b"gzip", b"deflate", b"br"]
DOCUMENTED = {200, 400, 404, 413, 415}
LENGTH = HEADER_LENGTH.lower().encode()


def write_corpus(folder: Path) -> None:
    """Sound requests as the fuzzer's bytes: path and encoding by number, a line for the header length, the body."""
    for number, ask in enumerate(mixed(5)):
        if ask.path in PATHS:
            encoding = ENCODINGS.index(ask.headers.get("Content-Encoding", "").encode())
            length = ask.headers.get(HEADER_LENGTH, "").encode()
            start = bytes((PATHS.index(ask.path), encoding))
            (folder / str(number)).write_bytes(start + length + b"\n" + ask.body)


def write_words(file: Path) -> None:
    """What to try in a body, in libFuzzer's form."""
    file.write_text("".join('"' + "".join(rf"\x{byte:02x}" for byte in token[:20]) + '"\n' for token in TOKENS))


class Application:
    """The real one, over a folder of two models, its lifespan begun."""

    def __init__(self, folder: Path) -> None:
        for name in MODELS:
            shutil.copytree(Path("artifacts") / name, folder / name)
        self._loop = asyncio.new_event_loop()
        self._app = create_app(Settings(model_repository=folder))
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        begun = asyncio.Event()

        async def receive() -> Message:
            if not begun.is_set():
                return {"type": "lifespan.startup"}
            return await asyncio.Future[Message]()  # never: the process ends with the fuzzer

        async def send(message: Message) -> None:
            if message["type"] != "lifespan.startup.complete":
                raise RuntimeError(f"the application did not start: {message}")
            begun.set()

        self._lifespan = asyncio.ensure_future(self._app({"type": "lifespan", "state": {}}, receive, send))
        await begun.wait()
        while (await self._answer("GET", "/v2/health/ready", [], b""))[0] != 200:  # noqa: ASYNC110  # no event says it
            await asyncio.sleep(0.01)

    async def _answer(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, bytes]:
        status, parts = 0, list[bytes]()

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "state": {},
        }
        await self._app(scope, receive, send)
        return status, b"".join(parts)

    def test(self, data: bytes) -> None:
        """One request. Raises RuntimeError, at which atheris ends."""
        path, encoding, rest = data[:1], data[1:2], data[2:]
        if not encoding:
            return
        length, _, body = rest.partition(b"\n")
        headers = [(b"content-length", b"%d" % len(body))]
        if name := ENCODINGS[encoding[0] % len(ENCODINGS)]:
            headers.append((b"content-encoding", name))
        if length:
            headers.append((LENGTH, length))
        where = PATHS[path[0] % len(PATHS)]
        status, answer = self._loop.run_until_complete(self._answer("POST", where, headers, body))
        if status not in DOCUMENTED:
            raise RuntimeError(f"{where}, {headers}, {body!r}: {status} {answer!r}")


def main() -> None:
    """Until the time is over that the arguments say."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(sys.argv[1]))
        words = Path(folder) / "words"
        write_words(words)
        (Path(folder) / "models").mkdir()
        application = Application(Path(folder) / "models")
        atheris.Setup([*sys.argv, f"-dict={words}"], application.test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
