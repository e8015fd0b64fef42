"""A normalisation operation that answers under a model's name: any weights, any shape, one request a run."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from typing import Any

from service import codec
from service.batcher import Batcher
from service.call import Call
from service.errors import DeadlineError, InferenceError, InvalidInputError, ServiceError, shown
from service.manifest import Certificate, OutputTensor
from service.metrics import ModelMetrics
from service.off_the_loop import size_of
from service.op_runtime import Operator, cost
from service.ops import DATATYPES_TAKEN, MAX_RANK, STATISTICS, Layout, Operation, Task
from service.protocol import DATATYPES, Arrays, Buffer, InferenceRequest, ModelMetadata, RequestInput, TensorMetadata
from service.record import Run
from service.served import Plans
from service.settings import Settings

logger = logging.getLogger(__name__)

VERSION = "1"
# Up to so much (see op_runtime.cost) a run takes 80 us at the most, about as long as the way to a thread and back:
# 1.3 to 1.7 times the requests a second (1 and 64 rows of 768, 1 and 16 connections).
INLINE_COST = 2**16
# Parameters of the protocol, which say nothing of what is to be computed. Any other that the operation does not know is
# refused: a misspelt eps would be a wrong answer.
PROTOCOL_PARAMETERS = frozenset({"binary_data_output", "nonfinite", "priority", "timeout", "headers"})


@dataclass(frozen=True)
class OpPlan:
    """A request to an operation; its tensors are read into a task."""

    wanted: codec.Wanted
    readers: list[tuple[str, codec.Reader]]
    layout: Layout
    compute: Callable[[Task], Arrays]
    is_small: bool

    def read(self, binary: Buffer) -> Task:
        """What is to be computed. Raises InvalidInputError."""
        return self.layout.task({name: read(binary) for name, read in self.readers})


class ServedOp:
    """An operation's OIP model. Its requests are never merged: weights and parameters belong to the request."""

    version = VERSION

    def __init__(
        self,
        operation: Operation,
        operator: Operator,
        certificate: Certificate,
        metrics: ModelMetrics,
        settings: Settings,
        instances: int,
    ) -> None:
        self.operation = operation
        self.name = operation.name
        self.certificate = certificate
        self.metrics = metrics
        self.plans = Plans(self.plan)
        self._operator = operator
        # Threads of its own: a slow operation must not hold up a fast one.
        self._threads = ThreadPoolExecutor(instances, thread_name_prefix=self.name)
        self._settings = settings
        self._instances = instances
        self._batcher = Batcher(
            self.name,
            self._run_in_thread,
            metrics,
            merges=False,
            instances=instances,
            max_batch_size=1,
            max_queue_delay_ms=0,
            max_queue_size=settings.max_queue_size,
            max_queue_bytes=settings.max_queue_bytes,
        )
        self._batcher.start()

    def plan(self, request: InferenceRequest) -> OpPlan:
        """Check inputs and parameters. Raises InvalidInputError."""
        if request.raw is not None:
            raise InvalidInputError(
                f"a raw body has no shape, and {self.name} takes x of any shape: send a JSON header"
            )
        if request.unknown:
            raise InvalidInputError(
                f"the request has {shown(request.unknown[0])} where that means nothing: the fields are inputs, "
                f"outputs, id and parameters, and {', '.join(self.operation.parameters)} are parameters of the request"
            )
        sent = {tensor.name: tensor for tensor in request.inputs}
        if len(sent) != len(request.inputs) or "x" not in sent or not sent.keys() <= {*self.operation.inputs}:
            names = [tensor.name for tensor in request.inputs]
            takes = ", ".join(self.operation.inputs)
            raise InvalidInputError(f"the inputs are {shown(names)}, {self.name} takes {takes}, each once, x always")
        parameters = self.operation.checked(
            {name: value for name, value in request.parameters.items() if name not in PROTOCOL_PARAMETERS}
        )
        for tensor in request.inputs:
            _check_input(tensor, sent["x"].datatype)
        outputs = _outputs(sent["x"].datatype, training=bool(parameters.get("training")))
        if not parameters.get("training"):
            for output in request.outputs or ():
                if output.name in self.operation.more_inputs:
                    raise InvalidInputError(f"output {output.name} is there only with the parameter training: true")
        wanted = codec.wanted(request, self.name, outputs)
        shapes = {tensor.name: tuple(tensor.shape) for tensor in request.inputs}
        layout, dtype = self.operation.layout(shapes, parameters), DATATYPES[sent["x"].datatype]
        is_small = cost(layout, dtype) <= INLINE_COST
        readers = [(tensor.name, codec.reader(tensor)) for tensor in request.inputs]
        compute = self._operator.computation(layout, dtype, [name for name, _ in wanted.outputs])
        return OpPlan(wanted, readers, layout, compute, is_small)

    def check(self) -> None:
        """See :meth:`Batcher.check`."""
        self._batcher.check()

    async def run(self, plan: OpPlan, task: Task, call: Call) -> Arrays:
        """All outputs. A small request runs here and now, a large one in a thread, so that nobody waits for it.

        Raises OverflowingInputError and what :meth:`Batcher.submit` raises.
        """
        if not plan.is_small:
            running = self._batcher.submit(partial(plan.compute, task), call, size_of(task.arrays))
            # They would keep the text of large JSON for as long as its tensors wait, which the queue does not count.
            del plan, task
            return await running
        started = perf_counter()
        if started >= call.deadline:
            raise DeadlineError(self.name, call.timeout_s)
        try:
            outputs = plan.compute(task)
        except ServiceError:
            raise
        except Exception as error:
            logger.exception("%s failed", self.name)  # the runtime's words are for the log
            raise InferenceError(self.name) from error
        ended = perf_counter()
        self.metrics.observe_batch(1, [0.0], ended - started)
        if call.record is not None:
            call.record.queue, call.record.run = (started, started), Run(1, (started, ended), [call.record.link])
        return outputs

    async def _run_in_thread(self, compute: Callable[[], Arrays]) -> Arrays:
        return await asyncio.get_running_loop().run_in_executor(self._threads, compute)

    def metadata(self, versions: list[str]) -> ModelMetadata:
        """Inputs and outputs of any shape, and the parameters; x and all others may be any one of ``datatypes``."""
        return ModelMetadata(
            name=self.name,
            versions=versions,
            platform="onnx_onnxv1",
            inputs=[
                TensorMetadata(name, DATATYPES_TAKEN[0], [-1], optional=name != "x" or None)
                for name in self.operation.inputs
            ],
            outputs=[
                TensorMetadata(name, DATATYPES_TAKEN[0], [-1], on_request=name in STATISTICS or None)
                for name in self.operation.outputs
            ],
            datatypes=list(DATATYPES_TAKEN),
            parameters=self.operation.described_parameters(),
        )

    def configuration(self) -> dict[str, Any]:
        """How it is run, in the terms of a model's."""
        metadata = self.metadata([VERSION])
        return {
            "name": self.name,
            "version": VERSION,
            "platform": metadata.platform,
            "backend": "onnxruntime",
            "execution_provider": "cpu",  # whatever the setting says: see op_runtime
            "max_batch_size": 0,
            "input": [
                {
                    "name": tensor.name,
                    "data_type": f"TYPE_{tensor.datatype}",
                    "dims": [-1],
                    "optional": tensor.name != "x",
                }
                for tensor in metadata.inputs
            ],
            "output": [
                {"name": tensor.name, "data_type": f"TYPE_{tensor.datatype}", "dims": [-1]}
                for tensor in metadata.outputs
            ],
            "instance_group": [{"kind": "KIND_CPU", "count": self._instances, "intra_op_threads": 1}],
            "batching": {
                "enabled": False,
                "reason": "weight, bias and parameters belong to the request: each is a run of its own",
                "max_batch_size": 1,
                "max_queue_size": self._settings.max_queue_size,
                "max_queue_bytes": self._settings.max_queue_bytes,
            },
            "task": self.operation.formula,
            "parameters": metadata.parameters,
            "source": self.operation.source,
        }

    async def close(self) -> None:
        """Answer what is queued, refuse what comes, end the threads."""
        await self._batcher.close()
        self._threads.shutdown()


@cache
def _outputs(datatype: str, *, training: bool) -> list[OutputTensor]:
    """What a request may ask for: y, the statistics when it names them, the running ones from training."""
    computed = "FP64" if datatype == "FP64" else "FP32"
    found = [OutputTensor(name="y", datatype=datatype, shape=[-1])]
    if training:
        found += [OutputTensor(name=name, datatype=computed, shape=[-1]) for name in ("running_mean", "running_var")]
    return found + [OutputTensor(name=name, datatype=computed, shape=[-1], on_request=True) for name in STATISTICS]


def _check_input(sent: RequestInput, datatype: str) -> None:
    """It is of x's datatype, with up to eight sizes from 1."""
    if sent.datatype not in DATATYPES_TAKEN:
        raise InvalidInputError(
            f"input {sent.name} has datatype {shown(sent.datatype)}, it must be one of {', '.join(DATATYPES_TAKEN)}"
        )
    if sent.datatype != datatype:
        raise InvalidInputError(f"input {sent.name} has datatype {sent.datatype}, it must be that of x, {datatype}")
    if not 1 <= len(sent.shape) <= MAX_RANK:
        raise InvalidInputError(f"input {sent.name} has {len(sent.shape)} sizes, it must have 1 to {MAX_RANK}")
    if min(sent.shape) < 1:
        raise InvalidInputError(f"input {sent.name} has shape {sent.shape}, each size must be at least 1")
    codec.check_data(sent)
