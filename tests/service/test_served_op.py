"""Where an operation runs: small requests at once, large ones in a thread that the event loop does not wait for."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from service.call import Call
from service.errors import InferenceError, OverflowingInputError, QueueFullError
from service.manifest import Certificate
from service.metrics import Metrics
from service.op_runtime import Operator, cost
from service.ops import OPERATIONS, Layout, Task
from service.protocol import Arrays
from service.served_op import INLINE_COST, ServedOp
from service.settings import Settings

SMALL, LARGE = np.ones((1, 768), "f4"), np.ones((200, 768), "f4")


class HeldOperator(Operator):
    """Waits in large runs until it is released, and notes in which thread each ran."""

    def __init__(self) -> None:
        self.begun, self.release, self.threads = threading.Event(), threading.Event(), list[int]()

    def computation(self, layout: Layout, dtype: Any, wanted: Any) -> Callable[[Task], Arrays]:
        return self.run

    def run(self, task: Task) -> Arrays:
        self.threads.append(threading.get_ident())
        self.begun.set()
        if cost(task.layout, task.x.dtype) > INLINE_COST:
            assert self.release.wait(20)
        return {"y": task.x}


def served(operator: Operator, **settings: Any) -> ServedOp:
    metrics = Metrics().of_model("layer_norm", "1")
    certificate = Certificate(model_name="layer_norm", model_version="1", claims=[])
    return ServedOp(OPERATIONS["layer_norm"], operator, certificate, metrics, Settings(**settings), instances=1)


def asked(op: ServedOp, x: np.ndarray) -> Awaitable[Arrays]:
    """The answer to a request that holds x as binary."""
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [tensor]}).encode()
    plan, binary = op.plans.of(header + x.tobytes(), len(header))
    return op.run(plan, plan.read(binary), Call(60))


def json_of(x: np.ndarray, weight: bytes = b"") -> bytearray:
    """A request that holds x as JSON, and weight as binary."""
    inputs: list[object] = [{"name": "x", "datatype": "FP32", "shape": x.shape, "data": x.tolist()}]
    if weight:
        size = {"binary_data_size": len(weight)}
        inputs.append({"name": "weight", "datatype": "FP32", "shape": [len(weight) // 4], "parameters": size})
    return bytearray(json.dumps({"inputs": inputs}).encode() + weight)


async def test_a_small_request_is_answered_while_a_large_one_runs() -> None:
    operator = HeldOperator()
    op = served(operator)
    large = asyncio.create_task(asked(op, LARGE))
    await asyncio.to_thread(operator.begun.wait)  # the loop is free: the large one waits in its own thread
    assert (await asked(op, SMALL))["y"].shape == (1, 1, 768)
    assert not large.done()
    operator.release.set()
    assert (await large)["y"].shape == (200, 1, 768)
    here = threading.get_ident()
    assert [thread == here for thread in operator.threads] == [False, True]
    await op.close()


@pytest.mark.parametrize("weight", [b"", bytes(3072)], ids=["alone", "before binary"])
async def test_the_text_of_large_json_is_not_kept_while_its_tensors_wait(weight: bytes) -> None:
    operator = HeldOperator()
    op = served(operator)
    body = json_of(LARGE, weight)
    plan, binary = op.plans.of(body, len(body) - len(weight) if weight else None)
    task = plan.read(binary)
    running = asyncio.ensure_future(op.run(plan, task, Call(60)))
    del plan, binary, task
    await asyncio.to_thread(operator.begun.wait)
    try:
        body.clear()  # a BufferError, as long as anybody has a view of it
    finally:
        operator.release.set()
    await running


async def test_large_requests_beyond_the_queue_are_refused_at_once() -> None:
    operator = HeldOperator()
    op = served(operator, max_queue_size=1)
    running = asyncio.create_task(asked(op, LARGE))
    await asyncio.to_thread(operator.begun.wait)
    waiting = asyncio.create_task(asked(op, LARGE))
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await asked(op, LARGE)
    operator.release.set()
    await asyncio.gather(running, waiting)
    await op.close()


class FailingOperator(Operator):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def computation(self, layout: Layout, dtype: Any, wanted: Any) -> Callable[[Task], Arrays]:
        return self.run

    def run(self, task: Task) -> Arrays:
        raise self.error


@pytest.mark.parametrize("x", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("error", "seen", "words"),
    [
        (OverflowingInputError("layer_norm"), OverflowingInputError, "too far apart for layer_norm"),
        (RuntimeError("/secret/path"), InferenceError, "layer_norm failed on this request"),
    ],
)
async def test_what_the_input_is_to_blame_for_is_said_and_the_rest_is_for_the_log(
    x: np.ndarray, error: Exception, seen: type[Exception], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    op = served(FailingOperator(error))
    with pytest.raises(seen, match=words) as caught:
        await asked(op, x)
    assert "secret" not in str(caught.value)
    assert ("secret" in caplog.text) == (seen is InferenceError)
    await op.close()


@pytest.mark.parametrize(
    ("shape", "dtype", "inline"),
    [((1, 768), "f4", True), ((64, 768), "f4", True), ((200, 768), "f4", False), ((65536, 1), "f4", False)],
)
def test_what_is_done_at_once_is_small_in_work_not_only_in_bytes(
    shape: tuple[int, ...], dtype: str, inline: bool
) -> None:
    layout = OPERATIONS["layer_norm"].task({"x": np.zeros(shape, dtype)}, {}).layout
    assert (cost(layout, np.dtype(dtype)) <= INLINE_COST) is inline
