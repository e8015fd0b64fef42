"""MLServer.

Requests/s of settings tried on two cores that wrk shares, 16 connections: in process, the model in two threads 311
(8 rows, 1 ms), 307 (8 rows, 2 ms), 296 (4 rows, 1 ms), 189 (16 rows, 5 ms); in process on the event loop 192; two
parallel workers 269 (8 rows, 2 ms).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peers.contract import INSTANCES, arguments, open_session


class Encoder(MLModel):
    """x -> y of the Open Inference Protocol, batched."""

    async def load(self) -> bool:
        """Before it is ready."""
        self.session = open_session(Path(self.settings.parameters.uri))
        self.threads = ThreadPoolExecutor(INSTANCES)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """All rows of a batch, off the event loop, which reads and writes JSON meanwhile."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        loop = asyncio.get_running_loop()
        (y,) = await loop.run_in_executor(self.threads, self.session.run, None, {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])


async def serve(port: int, model: Path) -> None:
    """Until a signal."""
    server = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_endpoint=None,
        debug=False,
        parallel_workers=0,
    )
    encoder = ModelSettings(
        name=model.parent.name,
        implementation="bench.peers.mlserver_server.Encoder",
        max_batch_size=8,
        max_batch_time=0.001,
        parameters=ModelParameters(uri=str(model)),
    )
    await MLServer(server).start([encoder])


if __name__ == "__main__":
    asyncio.run(serve(*arguments()))
