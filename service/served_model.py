"""A trained model that answers."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from service import codec
from service.batcher import Batcher
from service.call import Call
from service.manifest import Certificate, Manifest
from service.metrics import ModelMetrics
from service.model_config import model_config
from service.protocol import Arrays, Buffer, InferenceRequest, ModelMetadata
from service.runtime import OnnxModel
from service.served import Plans
from service.settings import Settings


@dataclass(frozen=True)
class ModelPlan:
    """A request to a model; its inputs are read into arrays by name."""

    wanted: codec.Wanted
    readers: list[tuple[str, codec.Reader]]

    def read(self, binary: Buffer) -> Arrays:
        """The inputs. Raises InvalidInputError."""
        return {name: read(binary) for name, read in self.readers}


@dataclass(frozen=True)
class ServedModel:
    """An artifact that was loaded: requests of equal sizes that wait at the same time share a run."""

    manifest: Manifest
    certificate: Certificate
    metrics: ModelMetrics
    onnx_model: OnnxModel
    batcher: Batcher
    settings: Settings
    instances: int

    @property
    def name(self) -> str:
        """The manifest's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The manifest's version."""
        return self.manifest.version

    @cached_property
    def plans(self) -> Plans:
        """What requests ask of it."""
        # Not by a method: a cycle that was there when the service had started is never collected (gc.freeze), and what
        # served a model that was loaded anew is to go.
        return Plans(partial(_plan, self.manifest))

    def check(self) -> None:
        """See :meth:`Batcher.check`."""
        self.batcher.check()

    def run(self, _plan: ModelPlan, inputs: Arrays, call: Call) -> Awaitable[Arrays]:
        """All outputs, when a batch with these inputs has run. Raises what :meth:`Batcher.submit` raises."""
        return self.batcher.submit(inputs, call)

    def metadata(self, versions: list[str]) -> ModelMetadata:
        """Inputs and outputs as the manifest has them."""
        return ModelMetadata(
            name=self.name,
            versions=versions,
            platform=self.manifest.platform,
            inputs=[tensor.metadata() for tensor in self.manifest.inputs],
            outputs=[tensor.metadata() for tensor in self.manifest.outputs],
        )

    def configuration(self) -> dict[str, Any]:
        """How it is run."""
        return model_config(self.manifest, self.settings, self.instances)

    async def close(self) -> None:
        """Answer what is queued, refuse what comes, end the threads."""
        await self.batcher.close()
        await asyncio.to_thread(self.onnx_model.close)


def _plan(manifest: Manifest, request: InferenceRequest) -> ModelPlan:
    """Check a request against the manifest. Raises InvalidInputError and TooManyRowsError."""
    wanted = codec.wanted(request, manifest.name, manifest.outputs)
    inputs = codec.inputs_of(request, manifest)
    return ModelPlan(wanted, [(sent.name, codec.model_reader(sent, tensor)) for sent, tensor in inputs])
