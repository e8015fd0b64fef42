"""LitServe.

Requests/s of settings tried on two cores that wrk shares, 16 connections: two workers and two API servers 223 (8 rows,
2 ms), 224 (16 rows, 5 ms), 223 (8 rows, 5 ms, ``fast_queue``); one API server 208; one of each 219 (5 ms). What
costs is its JSON, read by the standard library, and its lists of numbers pickled from process to process.
"""

from pathlib import Path

import litserve
import numpy as np
import orjson
from fastapi import Request, Response

from bench.peers.contract import INSTANCES, arguments, open_session


class Encoder(litserve.LitAPI):
    """``{"x": rows}`` -> ``{"y": rows}``, batched over requests of one row."""

    def __init__(self, model: Path) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.002)
        self.model = model

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe's signature
        """Once in each worker."""
        self.session = open_session(self.model)

    def decode_request(self, request: Request) -> np.ndarray:
        """The row of one request."""
        (row,) = np.array(request["x"], np.float32)
        return row

    def predict(self, x: np.ndarray) -> np.ndarray:
        """All rows of a batch, which LitServe has stacked."""
        return self.session.run(None, {"x": x})[0]

    def encode_response(self, output: np.ndarray) -> Response:
        """A response rather than a dict: FastAPI would walk the dict number by number."""
        body = orjson.dumps({"y": output[np.newaxis]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


if __name__ == "__main__":
    port, model = arguments()
    server = litserve.LitServer(Encoder(model), accelerator="cpu", devices=1, workers_per_device=INSTANCES)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=INSTANCES,
        log_level="warning",
        access_log=False,
        generate_client_file=False,  # it would write one beside us
    )
