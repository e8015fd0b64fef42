"""A model's folder -> what serves it: its files checked, its certificate measured here, its sessions open and warm."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from service import certificate, cuda
from service.artifact import Artifact
from service.batcher import Batcher
from service.certificate import Run
from service.cores import available_cores
from service.manifest import ArtifactError, Certificate, Manifest
from service.metrics import ModelMetrics
from service.model_config import NOT_INVARIANT, most_merged
from service.op_runtime import Operator, recheck_operations
from service.ops import OPERATIONS
from service.provider import CPU, Provider, division
from service.runtime import OnnxModel
from service.served_model import ServedModel
from service.served_op import ServedOp
from service.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """An artifact, its certificate as it holds here, and what that was measured with."""

    manifest: Manifest
    certificate: Certificate
    open_session: Callable[[int], ort.InferenceSession]  # with so many threads
    runs: dict[int, Run]  # by threads


@dataclass(frozen=True)
class _Loaded:
    """An artifact whose certificate holds here, and what runs it."""

    manifest: Manifest
    certificate: Certificate
    instances: list[Run]
    wide: Run | None  # has the threads of every core


class Loader:
    """Loads models by the settings and on the execution provider they ask for, and the operations on the CPU."""

    def __init__(self, settings: Settings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._cores = max(1, available_cores() // settings.workers)
        # All threads of a model together are no more than the cores.
        self._op_instances = settings.instances or max(1, self._cores // settings.intra_op_threads)
        self._instances = self._op_instances if provider.on_cores else settings.instances or cuda.INSTANCES

    async def operations(self, metrics: Mapping[str, ModelMetrics]) -> dict[str, ServedOp | ArtifactError]:
        """What serves each operation, or why nothing does."""
        try:
            operators = await asyncio.to_thread(lambda: {n: Operator(n) for n in sorted({1, max(2, self._cores)})})
            certificates = await asyncio.to_thread(recheck_operations, operators)
        except Exception:
            logger.exception("the operations' graphs cannot be loaded")
            return {
                name: ArtifactError("its graphs cannot be loaded; the server's log says why") for name in OPERATIONS
            }
        served: dict[str, ServedOp | ArtifactError] = {}
        for name, operation in OPERATIONS.items():
            measured = certificates[name]
            if reason := self._broken(measured.exported, measured.here, CPU):
                served[name] = ArtifactError(reason)
                continue
            served[name] = ServedOp(
                operation,
                operators[1],
                measured.here,
                metrics[name],
                self._settings,
                self._op_instances,
            )
        return served

    async def model(self, folder: Path, metrics: ModelMetrics) -> ServedModel:
        """What serves ``<name>/<version>/``. Raises ArtifactError that says why nothing can."""
        with _failing_in_words(folder):
            loaded = await asyncio.to_thread(self._load, folder)
        return self._serve(loaded, metrics)

    def check(self, folder: Path) -> Measured:
        """What is measured of ``<name>/<version>/``. Raises ArtifactError that says why nothing can be. Blocking."""
        with _failing_in_words(folder):
            return self._measure(folder)

    def _measure(self, folder: Path) -> Measured:
        """Read the artifact and measure its certificate here."""
        artifact = Artifact.read(folder)
        name, version = artifact.manifest.name, artifact.manifest.version
        serving = self._settings.intra_op_threads

        def open_session(threads: int) -> ort.InferenceSession:
            return certificate.open_session(artifact.graph, artifact.weights, threads, self._provider.session_options)

        # On a GPU a session's threads compute next to nothing. Two sessions must give the same bits all the same.
        widest = max(2, self._cores if self._provider.on_cores else serving)
        sessions = {threads: open_session(threads) for threads in sorted({1, serving, widest})}
        if self._provider.execution_provider != CPU.execution_provider:
            logger.info("%s/%s: %s", name, version, division(self._provider, sessions[serving]))
        runs = {threads: certificate.runner(session, artifact.manifest) for threads, session in sessions.items()}
        measured = certificate.recheck(
            artifact.manifest,
            runs,
            serving,
            measured_on=str(self._provider),
            tolerance=self._provider.tolerance,
        )
        return Measured(artifact.manifest, measured, open_session, runs)

    def _load(self, folder: Path) -> _Loaded:
        """What was measured, and as many sessions as there are to be instances, warm."""
        measured, serving = self._measure(folder), self._settings.intra_op_threads
        manifest, here, runs = measured.manifest, measured.certificate, measured.runs
        if reason := self._broken(manifest.certificate, here, self._provider):
            raise ArtifactError(reason)
        more = (measured.open_session(serving) for _ in range(self._instances - 1))
        instances = [runs[serving], *(certificate.runner(session, manifest) for session in more)]
        for run in instances[1:]:  # the first has run already
            certificate.warm_up(run, manifest)
        # A run on other threads may only stand in for one of these where it has the same bits.
        has_the_bits = all(claim.holds for claim in here.claims if claim.claim == "thread_invariant")
        is_wide = self._provider.on_cores and serving < max(runs) <= self._cores and has_the_bits
        return _Loaded(manifest, here, instances, runs[max(runs)] if is_wide else None)

    def _broken(self, exported: Certificate, here: Certificate, provider: Provider) -> str:
        """Why it is not served: a claim that held at export does not hold here, and that is enforced."""
        broken = certificate.broken_claims(exported, here)
        for claim in broken:
            logger.warning(
                "%s/%s: %s does not hold: %s", here.model_name, here.model_version, claim.claim, claim.measured
            )
        if not broken or (self._settings.certificate or provider.certificate) != "enforce":
            return ""
        claims = "; ".join(f"{claim.claim}: {claim.measured}" for claim in broken)
        return f"its certificate does not hold on this machine: {claims}; on {provider}"

    def _serve(self, loaded: _Loaded, metrics: ModelMetrics) -> ServedModel:
        settings, manifest = self._settings, loaded.manifest
        if manifest.batch_axis is not None and not manifest.merges:
            logger.warning("%s/%s: %s", manifest.name, manifest.version, NOT_INVARIANT)
        onnx_model = OnnxModel(
            manifest.name,
            loaded.instances,
            loaded.wide,
            has_the_cores=settings.workers == 1,
            on_cores=self._provider.on_cores,
        )
        batcher = Batcher(
            manifest.name,
            onnx_model.run,
            metrics,
            run_alone=onnx_model.run_alone,
            merges=manifest.batch_axis is not None,
            instances=self._instances,
            max_batch_size=most_merged(manifest, settings),
            max_queue_delay_ms=settings.max_queue_delay_ms,
            max_queue_size=settings.max_queue_size,
            max_queue_bytes=settings.max_queue_bytes,
        )
        batcher.start()
        return ServedModel(manifest, loaded.certificate, metrics, onnx_model, batcher, settings, self._instances)


@contextmanager
def _failing_in_words(folder: Path) -> Iterator[None]:
    """Whatever fails inside leaves as an ArtifactError, which clients may read; the runtime's words go to the log."""
    try:
        yield
    except ArtifactError as error:
        if error.__cause__ is not None:
            logger.warning("%s/%s: %s", folder.parent.name, folder.name, error.__cause__)
        raise
    except Exception as error:
        logger.exception("%s/%s failed while it was loaded", folder.parent.name, folder.name)
        raise ArtifactError("it failed while it was loaded; the server's log says why") from error
