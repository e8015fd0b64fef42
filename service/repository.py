"""The models of a folder: found, checked, loaded, looked up by name and version, and closed."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from service import certificate
from service.artifact import Artifact
from service.batcher import Batcher
from service.certificate import Run
from service.cores import available_cores
from service.errors import ModelNotFoundError, ModelNotReadyError, shown
from service.manifest import MODEL_NAME, MODEL_VERSION, ArtifactError, Certificate, Manifest
from service.metrics import Metrics, ModelMetrics
from service.protocol import Arrays, ModelIndexEntry
from service.runtime import OnnxModel
from service.settings import Settings

logger = logging.getLogger(__name__)

LOADING, READY, UNAVAILABLE = "LOADING", "READY", "UNAVAILABLE"


@dataclass(frozen=True)
class ServedModel:
    """A model that answers."""

    manifest: Manifest
    certificate: Certificate
    metrics: ModelMetrics
    onnx_model: OnnxModel
    batcher: Batcher

    async def infer(self, inputs: Arrays) -> Arrays:
        """Outputs by name for decoded inputs by name."""
        return await self.batcher.submit(inputs)

    async def close(self) -> None:
        """Answer what is queued, refuse what comes, end the threads."""
        await self.batcher.close()
        self.onnx_model.close()


@dataclass
class _Entry:
    """A model folder that was found, whether or not it can be served."""

    name: str
    version: str
    folder: Path
    metrics: ModelMetrics
    state: str = LOADING
    reason: str = ""
    model: ServedModel | None = None


class ModelRepository:
    """(name, version) -> :class:`ServedModel`. A request's name is looked up here; it never touches a path."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        # All threads of a model together are no more than the cores.
        self._instances = settings.instances or max(1, available_cores() // settings.intra_op_threads)
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._all_tried = False

    @property
    def instances(self) -> int:
        """Batches of one model that run at the same time."""
        return self._instances

    def scan(self) -> None:
        """Find the model folders; every one stands in the index from now on, as LOADING."""
        for folder in sorted(self._settings.model_repository.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            if not MODEL_NAME.fullmatch(folder.name):
                logger.error("folder %a is not served: a model's name must match %s", folder.name, MODEL_NAME.pattern)
                continue
            versions = _version_folders(folder)
            self._entries[folder.name] = {
                child.name: self._found(folder.name, child.name, child) for child in versions
            } or {"": self._found(folder.name, "", folder)}
        if not self._entries:
            logger.warning("no model in %s: none of its folders is <name>/<version>/", self._settings.model_repository)

    def _found(self, name: str, version: str, folder: Path) -> _Entry:
        metrics = self._metrics.of_model(name, version)
        metrics.set_ready(False)
        return _Entry(name, version, folder, metrics)

    async def load(self) -> None:
        """Try every model that was found; one that cannot be served says why and stands in nobody's way."""
        for entry in self._all():
            await self._load(entry)
        self._all_tried = True
        ready = sum(entry.state == READY for entry in self._all())
        logger.info("%d of %d models are ready", ready, len(self._all()))

    async def _load(self, entry: _Entry) -> None:
        try:
            manifest, measured, instances = await asyncio.to_thread(self._check, entry)
        except ArtifactError as error:
            entry.state, entry.reason = UNAVAILABLE, str(error)
        except Exception:
            logger.exception("%s/%s failed while it was loaded", entry.name, entry.version)
            entry.state, entry.reason = UNAVAILABLE, "it failed while it was loaded; the server's log says why"
        else:
            entry.model = self._serve(entry, manifest, measured, instances)
            entry.state = READY
            entry.metrics.set_ready(True)
        if entry.state == UNAVAILABLE:
            logger.error("%s/%s is not served: %s", entry.name, entry.version, entry.reason)

    def _check(self, entry: _Entry) -> tuple[Manifest, Certificate, list[Run]]:
        """Read the artifact, measure its certificate here, and open and warm up its sessions. Blocking."""
        if not entry.version:
            raise ArtifactError("it has no version: a folder named 1, 2, ... inside it")
        artifact = Artifact.read(entry.folder)
        serving = self._settings.intra_op_threads

        def open_run(threads: int) -> Run:
            session = certificate.open_session(artifact.graph, artifact.weights, threads)
            return certificate.runner(session, artifact.manifest)

        runs = {threads: open_run(threads) for threads in sorted({1, serving, max(2, available_cores())})}
        measured = certificate.recheck(artifact.manifest, runs, serving)
        broken = certificate.broken_claims(artifact.manifest.certificate, measured)
        for claim in broken:
            logger.warning("%s/%s: %s does not hold: %s", entry.name, entry.version, claim.claim, claim.measured)
        if broken and self._settings.certificate == "enforce":
            claims = "; ".join(f"{claim.claim}: {claim.measured}" for claim in broken)
            raise ArtifactError(f"its certificate does not hold on this machine: {claims}")
        instances = [runs[serving], *(open_run(serving) for _ in range(self._instances - 1))]
        for run in instances[1:]:  # the first has run already
            certificate.warm_up(run, artifact.manifest)
        return artifact.manifest, measured, instances

    def _serve(self, entry: _Entry, manifest: Manifest, measured: Certificate, instances: list[Run]) -> ServedModel:
        settings = self._settings
        onnx_model = OnnxModel(entry.name, instances)
        batcher = Batcher(
            entry.name,
            onnx_model.run,
            entry.metrics,
            merges=manifest.batch_axis is not None,
            instances=self._instances,
            max_batch_size=min(settings.max_batch_size, manifest.max_rows),
            max_queue_delay_ms=settings.max_queue_delay_ms,
            max_queue_size=settings.max_queue_size,
        )
        batcher.start()
        return ServedModel(manifest, measured, entry.metrics, onnx_model, batcher)

    async def close(self) -> None:
        """Close every model that serves."""
        await asyncio.gather(*(entry.model.close() for entry in self._all() if entry.model))

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """The model that serves ``name``; without a version, the highest there is.

        Raises ModelNotFoundError, or ModelNotReadyError with the reason while it loads or when it was refused. The
        highest version is never silently replaced by an older one: that would be another model's answer.
        """
        entry = self._find(name, version)
        if entry.state == LOADING:
            raise ModelNotReadyError(f"model {name} is being loaded", retry_after_seconds=1)
        if entry.model is None:
            raise ModelNotReadyError(
                f"model {'/'.join(filter(None, (name, entry.version)))} is not served: {entry.reason}"
            )
        return entry.model

    def metrics_of(self, name: str, version: str | None = None) -> ModelMetrics:
        """The counters of a model that was found, served or not. Raises ModelNotFoundError."""
        return self._find(name, version).metrics

    def version_of(self, name: str, version: str | None = None) -> str:
        """The version that ``version`` means: itself, or the highest. Raises ModelNotFoundError."""
        return self._find(name, version).version

    def versions(self, name: str) -> list[str]:
        """Every version of a model, the lowest first. Raises ModelNotFoundError."""
        self._find(name, None)
        return list(self._entries[name])

    def names(self) -> list[str]:
        """Every model that was found, served or not."""
        return list(self._entries)

    def index(self) -> list[ModelIndexEntry]:
        """Every model and version that was found, with its state and the reason for it."""
        return [ModelIndexEntry(entry.name, entry.version, entry.state, entry.reason) for entry in self._all()]

    def check_ready(self) -> None:
        """Raises ModelNotReadyError until every model has been tried and at least one serves."""
        if not self._all_tried:
            raise ModelNotReadyError("models are being loaded", retry_after_seconds=1)
        if not self._entries:
            raise ModelNotReadyError("the model repository is empty: it holds no folder <name>/<version>/")
        if not any(entry.state == READY for entry in self._all()):
            raise ModelNotReadyError("no model can be served; POST /v2/repository/index says why")

    def _all(self) -> list[_Entry]:
        return [entry for versions in self._entries.values() for entry in versions.values()]

    def _find(self, name: str, version: str | None) -> _Entry:
        versions = self._entries.get(name)
        if versions is None:
            asked = f"no model {name!r}" if MODEL_NAME.fullmatch(name) else "no model by that name"
            raise ModelNotFoundError(f"there is {asked}; the models are {', '.join(self._entries) or 'none'}")
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise ModelNotFoundError(f"model {name} has no version {shown(version)}; it has {', '.join(versions)}")
        return versions[version]


def _version_folders(folder: Path) -> list[Path]:
    """The folders named 1, 2, ... inside ``folder``, the lowest first; none when it cannot be read."""
    try:
        versions = [child for child in folder.iterdir() if MODEL_VERSION.fullmatch(child.name) and child.is_dir()]
    except OSError:
        return []
    return sorted(versions, key=lambda child: int(child.name))
