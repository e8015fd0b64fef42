"""The models of a folder: found, checked, loaded, looked up by name and version, and closed."""

import asyncio
import gc
import logging
from dataclasses import dataclass
from pathlib import Path

from service import certificate, served_op
from service.artifact import Artifact
from service.batcher import Batcher
from service.certificate import Run
from service.cores import available_cores
from service.errors import ModelNotFoundError, ModelNotReadyError, shown
from service.manifest import MODEL_NAME, MODEL_VERSION, ArtifactError, Certificate, Manifest
from service.metrics import Metrics, ModelMetrics
from service.op_runtime import Operator, recheck_operations
from service.ops import OPERATIONS
from service.protocol import ModelIndexEntry
from service.provider import CPU, Provider
from service.runtime import OnnxModel
from service.served import Served
from service.served_model import ServedModel
from service.served_op import ServedOp
from service.settings import Settings

logger = logging.getLogger(__name__)

LOADING, READY, UNAVAILABLE = "LOADING", "READY", "UNAVAILABLE"


@dataclass
class Entry:
    """A model folder that was found, or an operation, whether or not it can be served."""

    name: str
    version: str
    folder: Path | None  # None: an operation
    metrics: ModelMetrics
    state: str = LOADING
    reason: str = ""
    model: Served | None = None

    def serving(self) -> Served:
        """What serves it. Raises ModelNotReadyError with the reason while it loads or when it was refused."""
        if self.model is None:
            if self.state == LOADING:
                raise ModelNotReadyError(f"model {self.name} is being loaded", retry_after_seconds=1)
            named = "/".join(filter(None, (self.name, self.version)))
            raise ModelNotReadyError(f"model {named} is not served: {self.reason}")
        return self.model


@dataclass(frozen=True)
class _Loaded:
    """An artifact whose certificate holds here, and what runs it."""

    manifest: Manifest
    certificate: Certificate
    instances: list[Run]
    wide: Run | None  # has the threads of every core


class ModelRepository:
    """(name, version) -> what serves it. A request's name is looked up here; it never touches a path."""

    def __init__(self, settings: Settings, metrics: Metrics, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._metrics = metrics
        self._cores = max(1, available_cores() // settings.workers)
        # All threads of a model together are no more than the cores.
        self._instances = settings.instances or max(1, self._cores // settings.intra_op_threads)
        self._entries: dict[str, dict[str, Entry]] = {}
        self._all_tried = False

    def scan(self) -> None:
        """Find the model folders; every one stands in the index from now on, as LOADING, and so do the operations."""
        for folder in sorted(self._settings.model_repository.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            if not MODEL_NAME.fullmatch(folder.name):
                logger.error("folder %a is not served: a model's name must match %s", folder.name, MODEL_NAME.pattern)
                continue
            if folder.name in OPERATIONS:
                logger.error("folder %s is not served: that is the name of an operation", folder.name)
                continue
            versions = _version_folders(folder)
            self._entries[folder.name] = {
                child.name: self._found(folder.name, child.name, child) for child in versions
            } or {"": self._found(folder.name, "", folder)}
        if not self._entries:
            logger.warning("no model in %s: none of its folders is <name>/<version>/", self._settings.model_repository)
        for name in OPERATIONS:
            self._entries[name] = {served_op.VERSION: self._found(name, served_op.VERSION, None)}

    def _found(self, name: str, version: str, folder: Path | None) -> Entry:
        metrics = self._metrics.of_model(name, version)
        metrics.set_ready(False)
        return Entry(name, version, folder, metrics)

    async def load(self) -> None:
        """Try every model that was found; one that cannot be served says why and stands in nobody's way."""
        logger.info("models are computed on %s, operations on cpu", self._provider)
        await self._load_operations()
        models = self._models()
        for entry in models:
            await self._load(entry)
        self._all_tried = True
        # What is there now stays: the collector need not look at it again, which took 1 % of all time.
        gc.collect()
        gc.freeze()
        ready, operations = (
            sum(entry.state == READY for entry in entries)
            for entries in (models, [entry for entry in self._all() if entry.name in OPERATIONS])
        )
        logger.info(
            "%d of %d models and %d of %d operations are ready", ready, len(models), operations, len(OPERATIONS)
        )

    async def _load_operations(self) -> None:
        """They ship with the service and are there whatever the model repository holds."""
        entries = {name: self._entries[name][served_op.VERSION] for name in OPERATIONS}
        try:
            operators = await asyncio.to_thread(lambda: {n: Operator(n) for n in sorted({1, max(2, self._cores)})})
            certificates = await asyncio.to_thread(recheck_operations, operators)
        except Exception:
            logger.exception("the operations' graphs cannot be loaded")
            for entry in entries.values():
                entry.state, entry.reason = UNAVAILABLE, "its graphs cannot be loaded; the server's log says why"
            return
        for name, entry in entries.items():
            measured = certificates[name]
            if reason := self._broken(entry, measured.exported, measured.here, CPU):
                entry.state, entry.reason = UNAVAILABLE, reason
                logger.error("%s is not served: %s", name, reason)
                continue
            entry.model = ServedOp(
                OPERATIONS[name],
                operators[1],
                measured.here,
                entry.metrics,
                self._settings,
                self._instances,
            )
            entry.state = READY
            entry.metrics.set_ready(True)

    async def _load(self, entry: Entry) -> None:
        try:
            loaded = await asyncio.to_thread(self._check, entry)
        except ArtifactError as error:
            entry.state, entry.reason = UNAVAILABLE, str(error)
        except Exception:
            logger.exception("%s/%s failed while it was loaded", entry.name, entry.version)
            entry.state, entry.reason = UNAVAILABLE, "it failed while it was loaded; the server's log says why"
        else:
            entry.model = self._serve(entry, loaded)
            entry.state = READY
            entry.metrics.set_ready(True)
        if entry.state == UNAVAILABLE:
            logger.error("%s/%s is not served: %s", entry.name, entry.version, entry.reason)

    def _check(self, entry: Entry) -> "_Loaded":
        """Read the artifact, measure its certificate here, and open and warm up its sessions. Blocking."""
        if not entry.version or entry.folder is None:
            raise ArtifactError("it has no version: a folder named 1, 2, ... inside it")
        artifact = Artifact.read(entry.folder)
        serving = self._settings.intra_op_threads

        def open_run(threads: int) -> Run:
            session = certificate.open_session(
                artifact.graph, artifact.weights, threads, self._provider.session_options
            )
            return certificate.runner(session, artifact.manifest)

        runs = {threads: open_run(threads) for threads in sorted({1, serving, max(2, self._cores)})}
        measured = certificate.recheck(
            artifact.manifest,
            runs,
            serving,
            measured_on=str(self._provider),
            tolerance=self._provider.tolerance,
        )
        if reason := self._broken(entry, artifact.manifest.certificate, measured, self._provider):
            raise ArtifactError(reason)
        instances = [runs[serving], *(open_run(serving) for _ in range(self._instances - 1))]
        for run in instances[1:]:  # the first has run already
            certificate.warm_up(run, artifact.manifest)
        # A run on other threads may only stand in for one of these where it has the same bits.
        widest = max(runs)
        has_the_bits = all(claim.holds for claim in measured.claims if claim.claim == "thread_invariant")
        is_wide = serving < widest <= self._cores and has_the_bits
        return _Loaded(artifact.manifest, measured, instances, runs[widest] if is_wide else None)

    def _broken(self, entry: Entry, exported: Certificate, here: Certificate, provider: Provider) -> str:
        """Why it is not served: a claim that held at export does not hold here, and that is enforced."""
        broken = certificate.broken_claims(exported, here)
        for claim in broken:
            logger.warning("%s/%s: %s does not hold: %s", entry.name, entry.version, claim.claim, claim.measured)
        if not broken or (self._settings.certificate or provider.certificate) != "enforce":
            return ""
        claims = "; ".join(f"{claim.claim}: {claim.measured}" for claim in broken)
        return f"its certificate does not hold on this machine: {claims}; on {provider}"

    def _serve(self, entry: Entry, loaded: "_Loaded") -> ServedModel:
        settings, manifest = self._settings, loaded.manifest
        onnx_model = OnnxModel(entry.name, loaded.instances, loaded.wide, has_the_cores=settings.workers == 1)
        batcher = Batcher(
            entry.name,
            onnx_model.run,
            entry.metrics,
            run_alone=onnx_model.run_alone,
            merges=manifest.batch_axis is not None,
            instances=self._instances,
            max_batch_size=min(settings.max_batch_size, manifest.max_rows),
            max_queue_delay_ms=settings.max_queue_delay_ms,
            max_queue_size=settings.max_queue_size,
            max_queue_bytes=settings.max_queue_bytes,
        )
        batcher.start()
        return ServedModel(manifest, loaded.certificate, entry.metrics, onnx_model, batcher, settings, self._instances)

    async def close(self) -> None:
        """Close every model that serves."""
        await asyncio.gather(*(entry.model.close() for entry in self._all() if entry.model))

    def get(self, name: str, version: str | None = None) -> Served:
        """The model that serves ``name``. Raises ModelNotFoundError and ModelNotReadyError."""
        return self.find(name, version).serving()

    def version_of(self, name: str, version: str | None = None) -> str:
        """The version that ``version`` means: itself, or the highest. Raises ModelNotFoundError."""
        return self.find(name, version).version

    def versions(self, name: str) -> list[str]:
        """Every version of a model, the lowest first. Raises ModelNotFoundError."""
        self.find(name, None)
        return list(self._entries[name])

    def names(self) -> list[str]:
        """Every model that was found, served or not."""
        return list(self._entries)

    def index(self) -> list[ModelIndexEntry]:
        """Every model and version that was found, with its state and the reason for it."""
        return [ModelIndexEntry(entry.name, entry.version, entry.state, entry.reason) for entry in self._all()]

    def check_ready(self) -> None:
        """Raises ModelNotReadyError until every model has been tried and, where there are any, at least one serves.

        Without models the operations alone are a service; beside models that were all refused they are not.
        """
        if not self._all_tried:
            raise ModelNotReadyError("models are being loaded", retry_after_seconds=1)
        if not any(entry.state == READY for entry in self._models() or self._all()):
            raise ModelNotReadyError("no model can be served; POST /v2/repository/index says why")

    def _all(self) -> list[Entry]:
        return [entry for versions in self._entries.values() for entry in versions.values()]

    def _models(self) -> list[Entry]:
        """Those that came from the model repository."""
        return [entry for entry in self._all() if entry.name not in OPERATIONS]

    def find(self, name: str, version: str | None = None) -> Entry:
        """A model that was found, served or not; without a version, the highest there is. Raises ModelNotFoundError.

        The highest version is never silently replaced by an older one: that would be another model's answer.
        """
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
