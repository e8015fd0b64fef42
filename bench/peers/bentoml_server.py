"""BentoML.

Requests/s of settings tried on two cores that wrk shares, 16 connections: two workers 101 (16 rows, the latency it
allows itself by default, 60 s), 93 (8 rows, 1 s), 88 (4 rows, two threads each); one worker of two threads 90. With
100 ms it refuses requests (503). Half of its time goes into writing numpy arrays by the standard library's JSON.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType

from bench.peers.contract import INSTANCES, arguments, open_session

MODEL = "PEER_MODEL"  # BentoML imports this file again in each worker; only the environment gets there
Rows = Annotated[np.ndarray, DType("float32")]


@bentoml.service(workers=INSTANCES, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Encoder:
    """``{"x": rows}`` -> rows, batched in each worker."""

    def __init__(self) -> None:
        self.session = open_session(Path(os.environ[MODEL]))

    @bentoml.api(batchable=True, max_batch_size=16)
    def infer(self, x: Rows) -> Rows:
        """All rows of a batch."""
        return self.session.run(None, {"x": x})[0]


if __name__ == "__main__":
    port, model = arguments()
    serve = ["serve", "bench.peers.bentoml_server:Encoder", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {MODEL: str(model)}
    os.execve(sys.executable, [sys.executable, "-m", "bentoml", *serve], environment)  # noqa: S606
