"""The models of a folder: found, loaded, looked up by name and version, and closed."""

import asyncio
import gc
import logging
from dataclasses import dataclass
from pathlib import Path

from service import served_op
from service.errors import ModelNotFoundError, ModelNotReadyError, shown
from service.loader import Loader
from service.manifest import MODEL_NAME, MODEL_VERSION, ArtifactError
from service.metrics import Metrics, ModelMetrics
from service.ops import OPERATIONS
from service.protocol import ModelIndexEntry
from service.provider import Provider
from service.served import Served
from service.settings import Settings

logger = logging.getLogger(__name__)

LOADING, READY, UNAVAILABLE = "LOADING", "READY", "UNAVAILABLE"


@dataclass
class Entry:
    """A model folder that was found, or an operation, whether or not it can be served."""

    name: str
    version: str
    metrics: ModelMetrics
    state: str = LOADING
    reason: str = ""
    model: Served | None = None

    def serve(self, model: Served) -> None:
        """From now on by ``model``."""
        self.model, self.state, self.reason = model, READY, ""
        self.metrics.set_ready(True)

    def refuse(self, reason: str) -> None:
        """It cannot be served."""
        self.state, self.reason = UNAVAILABLE, reason
        logger.error("%s is not served: %s", self, reason)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.name, self.version)))

    def serving(self) -> Served:
        """What serves it. Raises ModelNotReadyError with the reason while it loads or when it was refused."""
        if self.model is None:
            if self.state == LOADING:
                raise ModelNotReadyError(f"model {self.name} is being loaded", retry_after_seconds=1)
            raise ModelNotReadyError(f"model {self} is not served: {self.reason}")
        return self.model


class ModelRepository:
    """(name, version) -> what serves it. A request's name is looked up here; it never touches a path."""

    def __init__(self, settings: Settings, metrics: Metrics, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._metrics = metrics
        self._loader = Loader(settings, provider)
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
            self._entries[folder.name] = self._found(folder.name, _versions(folder) or [""])
        if not self._entries:
            logger.warning("no model in %s: none of its folders is <name>/<version>/", self._settings.model_repository)
        for name in OPERATIONS:
            self._entries[name] = self._found(name, [served_op.VERSION])

    def _found(self, name: str, versions: list[str]) -> dict[str, Entry]:
        """Entries of these versions, none of which serves yet."""
        entries = {version: Entry(name, version, self._metrics.of_model(name, version)) for version in versions}
        for entry in entries.values():
            entry.metrics.set_ready(False)
        return entries

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
        served = await self._loader.operations({name: entry.metrics for name, entry in entries.items()})
        for name, model in served.items():
            if isinstance(model, ArtifactError):
                entries[name].refuse(str(model))
            else:
                entries[name].serve(model)

    async def _load(self, entry: Entry) -> None:
        try:
            entry.serve(await self._served(entry))
        except ArtifactError as error:
            entry.refuse(str(error))

    async def _served(self, entry: Entry) -> Served:
        """What serves a model. Raises ArtifactError that says why nothing can."""
        if not entry.version:
            raise ArtifactError("it has no version: a folder named 1, 2, ... inside it")
        # Both names were read from the disk: see scan.
        folder = self._settings.model_repository / entry.name / entry.version
        return await self._loader.model(folder, entry.metrics)

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


def _versions(folder: Path) -> list[str]:
    """The names of the folders 1, 2, ... inside ``folder``, the lowest first; none when it cannot be read."""
    try:
        names = [child.name for child in folder.iterdir() if MODEL_VERSION.fullmatch(child.name) and child.is_dir()]
    except OSError:
        return []
    return sorted(names, key=int)
