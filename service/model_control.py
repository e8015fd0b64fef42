"""Which models serve: loaded when the service starts, loaded anew and unloaded when asked, closed when it ends."""

import asyncio
import gc
import logging
from collections.abc import Coroutine

from service.errors import InvalidInputError, ModelLoadError, ModelNotReadyError
from service.lease import Lease
from service.loader import Loader
from service.manifest import ArtifactError
from service.memory import give_back
from service.ops import OPERATIONS
from service.provider import Provider
from service.repository import READY, Entry, ModelRepository
from service.served import Served
from service.settings import Settings

logger = logging.getLogger(__name__)


class ModelControl:
    """Changes what the entries of a repository are served by: one change at a time, each to its end."""

    def __init__(self, repository: ModelRepository, settings: Settings, provider: Provider) -> None:
        self._repository = repository
        self._provider = provider
        self._loader = Loader(settings, provider)
        self._changing = asyncio.Lock()
        self._is_closing = False
        self._tasks = set[asyncio.Task[None]]()

    async def start(self) -> None:
        """Try every model that was found; one that cannot be served says why and stands in nobody's way."""
        why = f" ({self._provider.why})" if self._provider.why else ""
        logger.info("models are computed on %s%s, operations on cpu", self._provider, why)
        models, operations = self._repository.models(), self._repository.operations()
        async with self._changing:
            await self._load_operations({entry.name: entry for entry in operations})
            for entry in models:
                try:
                    entry.serve(await self._model_of(entry))
                except ArtifactError as error:
                    entry.refuse(str(error))
        self._repository.all_tried = True
        # What is there now stays: the collector need not look at it again, which took 1 % of all time. It also never
        # will: a model that is replaced later goes without it, because no cycle leads through a closed one.
        gc.collect()
        gc.freeze()
        give_back()
        ready, ready_operations = (sum(each.state == READY for each in entries) for entries in (models, operations))
        logger.info(
            "%d of %d models and %d of %d operations are ready", ready, len(models), ready_operations, len(operations)
        )

    async def load(self, name: str) -> None:
        """Serve what is in a model's folder now; what serves until then is closed once its requests are answered.

        All its versions or none: where one cannot be served everything stays as it is, and the index says why.

        Raises ModelNotFoundError, InvalidInputError for an operation, ModelLoadError, ModelNotReadyError at the end.
        """
        await self._to_its_end(self._load(name))

    async def unload(self, name: str) -> None:
        """Serve none of a model's versions any more; requests under way are answered.

        Raises ModelNotFoundError, InvalidInputError for an operation, ModelNotReadyError at the end.
        """
        await self._to_its_end(self._unload(name))

    async def close(self) -> None:
        """Let a load under way end, refuse those behind it, and close every model."""
        self._is_closing = True
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        entries = [*self._repository.models(), *self._repository.operations()]
        await asyncio.gather(*(entry.lease.model.close() for entry in entries if entry.lease))

    async def _to_its_end(self, change: Coroutine[None, None, None]) -> None:
        """Whether or not who has asked for it still waits."""
        await asyncio.shield(self._begin(change))

    def _begin(self, coroutine: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load_operations(self, entries: dict[str, Entry]) -> None:
        """They ship with the service and are there whatever the model repository holds."""
        served = await self._loader.operations({name: entry.metrics for name, entry in entries.items()})
        for name, model in served.items():
            if isinstance(model, ArtifactError):
                entries[name].refuse(str(model))
            else:
                entries[name].serve(model)

    async def _load(self, name: str) -> None:
        async with self._changing:
            self._check_open(name)
            try:
                versions = await asyncio.to_thread(self._repository.versions_on_disk, name)
                entries = self._repository.entries(name, versions)
                models = await self._models_of(entries)
            except ArtifactError as error:
                logger.error("%s was not loaded: %s", name, error)  # noqa: TRY400  # of a bug the log has the traceback
                for entry in self._repository.named(name):
                    entry.reason = f"its last load failed: {error}"
                raise ModelLoadError(name, str(error)) from error
            for entry in self._repository.put(name, entries):
                self._retire(entry, "replaced")
                if entry.version not in entries:
                    entry.metrics.set_gone()
            for version, entry in entries.items():
                entry.serve(models[version])
            logger.info("%s was loaded: version %s", name, ", ".join(entries))

    async def _unload(self, name: str) -> None:
        async with self._changing:
            self._check_open(name)
            self._repository.find(name)
            for entry in self._repository.named(name):
                self._retire(entry, "unloaded")
            logger.info("%s was unloaded", name)

    def _check_open(self, name: str) -> None:
        if self._is_closing:
            raise ModelNotReadyError("the server is about to end: no model is loaded or unloaded any more")
        if name in OPERATIONS:
            raise InvalidInputError(f"{name} is an operation: it ships with the server and is always loaded")

    async def _models_of(self, entries: dict[str, Entry]) -> dict[str, Served]:
        """What serves each of these versions. Raises ArtifactError naming one that nothing can serve."""
        models: dict[str, Served] = {}
        for version, entry in entries.items():
            try:
                models[version] = await self._model_of(entry)
            except ArtifactError as error:
                await asyncio.gather(*(model.close() for model in models.values()))
                raise ArtifactError(f"version {version}: {error}" if version else str(error)) from error
        return models

    async def _model_of(self, entry: Entry) -> Served:
        """What serves a version. Raises ArtifactError that says why nothing can."""
        return await self._loader.model(await asyncio.to_thread(entry.artifact), entry.metrics)

    def _retire(self, entry: Entry, reason: str) -> None:
        """Give it to nobody any more, and close what served it once nobody holds that."""
        if (lease := entry.release(reason)) is not None:
            self._begin(_closed(lease))


async def _closed(lease: Lease) -> None:
    await lease.retire()
    await asyncio.to_thread(give_back)
