"""A trained model that answers."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from service import codec
from service.batcher import Batcher
from service.manifest import Certificate, Manifest
from service.metrics import ModelMetrics
from service.model_config import model_config
from service.protocol import InferenceRequest, ModelMetadata
from service.runtime import OnnxModel
from service.served import Call
from service.settings import Settings


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

    def decode(self, request: InferenceRequest) -> Call:
        """Check the inputs against the manifest. Raises InvalidInputError and TooManyRowsError."""
        wanted = codec.wanted(request, self.name, self.manifest.outputs)
        return Call(wanted, partial(self.batcher.submit, codec.decode(request, self.manifest)))

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
        self.onnx_model.close()
