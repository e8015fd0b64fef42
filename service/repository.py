"""The models of a folder, whether or not they serve: found, and looked up by name and version."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service import served_op
from service.errors import ModelNotFoundError, ModelNotReadyError, shown
from service.lease import Lease
from service.manifest import MODEL_NAME, MODEL_VERSION, ArtifactError
from service.metrics import Metrics, ModelMetrics
from service.ops import OPERATIONS
from service.protocol import ModelIndexEntry
from service.served import Served

logger = logging.getLogger(__name__)

LOADING, READY, UNAVAILABLE = "LOADING", "READY", "UNAVAILABLE"


@dataclass
class Entry:
    """A model folder that was found, or an operation, whether or not it can be served."""

    name: str
    version: str
    folder: Path | None  # None: an operation; without a version, the model's
    metrics: ModelMetrics
    state: str = LOADING
    reason: str = ""  # for the state, or of a model that serves: why its last load failed
    lease: Lease | None = None  # of what serves it

    def serve(self, model: Served) -> None:
        """From now on by ``model``."""
        self.lease, self.state, self.reason = Lease(model), READY, ""
        self.metrics.set_ready(True)

    def refuse(self, reason: str) -> None:
        """It cannot be served."""
        self.state, self.reason = UNAVAILABLE, reason
        logger.error("%s is not served: %s", self, reason)

    def release(self, reason: str) -> Lease | None:
        """Give it to nobody any more; what served it is still to be retired."""
        lease, self.lease = self.lease, None
        self.state, self.reason = UNAVAILABLE, reason
        self.metrics.set_ready(False)
        return lease

    def artifact(self) -> Path:
        """The folder of its version. Raises ArtifactError where there is none. Blocking."""
        if self.folder and self.version:
            return self.folder
        if self.folder:
            versions_in(self.folder)  # says so where it cannot be read
        raise ArtifactError("it has no version: a folder named 1, 2, ... inside it")

    def serving(self) -> Lease:
        """What serves it. Raises ModelNotReadyError with the reason while it loads, when it was refused or unloaded."""
        if self.lease is None:
            if self.state == LOADING:
                raise ModelNotReadyError(f"model {self.name} is being loaded", retry_after_seconds=1)
            raise ModelNotReadyError(f"model {self} is not served: {self.reason}")
        return self.lease

    def indexed(self) -> ModelIndexEntry:
        """Its line of the repository index."""
        return ModelIndexEntry(self.name, self.version, self.state, self.reason)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.name, self.version)))


class ModelRepository:
    """(name, version) -> what serves it. A request's name is looked up here; it never becomes part of a path."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._folder = folder
        self._metrics = metrics
        self._entries: dict[str, dict[str, Entry]] = {}
        self.all_tried = False  # until every model that was found has been

    def scan(self) -> None:
        """Find the model folders; every one stands in the index from now on, as LOADING, and so do the operations."""
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            if not MODEL_NAME.fullmatch(folder.name):
                logger.error("folder %a is not served: a model's name must match %s", folder.name, MODEL_NAME.pattern)
                continue
            if folder.name in OPERATIONS:
                logger.error("folder %s is not served: that is the name of an operation", folder.name)
                continue
            versions = list[str]()
            with suppress(ArtifactError):  # its load will say why
                versions = versions_in(folder)
            self._entries[folder.name] = self.entries(folder.name, versions)
        if not self._entries:
            logger.warning("no model in %s: none of its folders is <name>/<version>/", self._folder)
        for name in OPERATIONS:
            self._entries[name] = {served_op.VERSION: self._entry(name, served_op.VERSION, None)}

    def versions_on_disk(self, name: str) -> list[str]:
        """A model's folders 1, 2, ... as they are now, the lowest first; its name is looked for among those there are.

        Raises ModelNotFoundError where it never was, ArtifactError where it is gone or cannot be read. Blocking.
        """
        with suppress(OSError):
            for folder in self._folder.iterdir():
                if folder.name == name and MODEL_NAME.fullmatch(name) and folder.is_dir():
                    return versions_in(folder)
        self.find(name)
        raise ArtifactError("its folder is gone, or cannot be read")

    def entries(self, name: str, versions: list[str]) -> dict[str, Entry]:
        """New ones, which stand in the index once they are ``put`` there; without a version one that says so."""
        return {version: self._entry(name, version, self._folder / name / version) for version in versions} or {
            "": self._entry(name, "", self._folder / name)
        }

    def _entry(self, name: str, version: str, folder: Path | None) -> Entry:
        return Entry(name, version, folder, self._metrics.of_model(name, version))

    def put(self, name: str, entries: dict[str, Entry]) -> list[Entry]:
        """Let these be all the versions of a model; the answer is those that were."""
        before = self.named(name)
        self._entries[name] = entries
        return before

    def named(self, name: str) -> list[Entry]:
        """Every version of a model, the lowest first; none of one that was never found."""
        return list(self._entries.get(name, {}).values())

    def get(self, name: str, version: str | None = None) -> Served:
        """The model that serves ``name``, for no longer than until the next await: ``Entry.serving`` holds it.

        Raises ModelNotFoundError and ModelNotReadyError.
        """
        return self.find(name, version).serving().model

    def version_of(self, name: str, version: str | None = None) -> str:
        """The version that ``version`` means: itself, or the highest. Raises ModelNotFoundError."""
        return self.find(name, version).version

    def versions(self, name: str) -> list[str]:
        """Every version of a model, the lowest first. Raises ModelNotFoundError."""
        self.find(name)
        return [entry.version for entry in self.named(name)]

    def names(self) -> list[str]:
        """Every model that was found, served or not."""
        return list(self._entries)

    def index(self) -> list[ModelIndexEntry]:
        """Every model and version that was found, with its state and the reason for it."""
        return [entry.indexed() for entry in self._all()]

    def check_ready(self) -> None:
        """Raises ModelNotReadyError until every model has been tried and, where there are any, at least one serves.

        Without models the operations alone are a service; beside models that were all refused they are not.
        """
        if not self.all_tried:
            raise ModelNotReadyError("models are being loaded", retry_after_seconds=1)
        if not any(entry.state == READY for entry in self.models() or self._all()):
            raise ModelNotReadyError("no model can be served; POST /v2/repository/index says why")

    def _all(self) -> list[Entry]:
        return [entry for versions in self._entries.values() for entry in versions.values()]

    def models(self) -> list[Entry]:
        """Those that came from the model repository."""
        return [entry for entry in self._all() if entry.name not in OPERATIONS]

    def operations(self) -> list[Entry]:
        """Those that ship with the service."""
        return [entry for entry in self._all() if entry.name in OPERATIONS]

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


def versions_in(folder: Path) -> list[str]:
    """The names of the folders 1, 2, ... inside ``folder``, the lowest first. Raises ArtifactError without the right.

    Blocking.
    """
    try:
        names = [child.name for child in folder.iterdir() if MODEL_VERSION.fullmatch(child.name) and child.is_dir()]
    except OSError as error:
        raise ArtifactError(f"its folder cannot be read: {error.strerror}") from error
    return sorted(names, key=int)
