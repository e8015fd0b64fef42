"""What is served, from the start to the end: what the provider decides, and changes of it meanwhile."""

import asyncio
import gc
import logging
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.call import Call
from service.errors import InvalidInputError, ModelNotReadyError
from service.metrics import Metrics
from service.model_control import ModelControl
from service.ops import OPERATIONS
from service.provider import CPU, Provider
from service.repository import ModelRepository
from service.settings import Settings

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
NAME = "ln-mlp-digits"
BIG = "ln-lstm-charlm"
# As bf16 is, but of a tolerance that no two implementations keep: parity fails.
ROUGH = replace(CPU, precision="bf16", tolerance=0.0, certificate="report")


@pytest.mark.parametrize(
    ("setting", "state"),
    [({}, "READY"), ({"certificate": "report"}, "READY"), ({"certificate": "enforce"}, "UNAVAILABLE")],
)
async def test_the_setting_decides_and_without_it_the_provider(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: dict[str, Any], state: str
) -> None:
    shutil.copytree(ARTIFACTS / NAME, tmp_path / NAME)
    repository = ModelRepository(tmp_path, Metrics())
    control = ModelControl(repository, Settings(model_repository=tmp_path, **setting), ROUGH)
    repository.scan()
    try:
        with caplog.at_level(logging.INFO):
            await control.start()
        index = {entry.name: entry for entry in repository.index()}
        assert index[NAME].state == state
        assert all(index[name].state == "READY" for name in OPERATIONS)
        if state == "READY":
            claims = {claim.claim: claim.holds for claim in repository.get(NAME).certificate.claims}
            assert (claims["torch_onnx_parity"], claims["batch_invariant"]) == (False, True)
        else:
            assert "torch_onnx_parity" in index[NAME].reason
            assert index[NAME].reason.endswith("; on cpu, bf16")
    finally:
        await control.close()
    assert "models are computed on cpu, bf16, operations on cpu" in caplog.text


class Held:
    """A provider on which loads stop, once it is told to, until they may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.provider = replace(CPU, session_options=self.session_options)

    def session_options(self, threads: int) -> ort.SessionOptions:
        self.begun.set()
        assert self.may_go_on.wait(20)
        return CPU.session_options(threads)

    async def stops(self) -> None:
        await asyncio.to_thread(self.begun.wait, 20)

    def hold(self) -> None:
        self.begun.clear()
        self.may_go_on.clear()


@asynccontextmanager
async def serving(tmp_path: Path, provider: Provider = CPU) -> AsyncIterator[tuple[ModelRepository, ModelControl]]:
    shutil.copytree(ARTIFACTS / NAME, tmp_path / NAME)
    repository = ModelRepository(tmp_path, Metrics())
    control = ModelControl(repository, Settings(model_repository=tmp_path), provider)
    repository.scan()
    await control.start()
    try:
        yield repository, control
    finally:
        await control.close()


async def test_a_load_whose_client_has_left_is_done_all_the_same(tmp_path: Path) -> None:
    held = Held()
    async with serving(tmp_path, held.provider) as (repository, control):
        before = repository.get(NAME)
        held.hold()
        load = asyncio.create_task(control.load(NAME))
        await held.stops()
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert repository.get(NAME) is before
        held.may_go_on.set()
        with pytest.raises(InvalidInputError):  # whose turn comes after the load's
            await control.load("layer_norm")
        assert repository.get(NAME) is not before


async def test_changes_of_a_model_come_one_after_the_other(tmp_path: Path) -> None:
    held = Held()
    async with serving(tmp_path, held.provider) as (repository, control):
        held.hold()
        first = asyncio.create_task(control.load(NAME))
        await held.stops()
        held.begun.clear()
        second = asyncio.create_task(control.load(NAME))
        third = asyncio.create_task(control.unload(NAME))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not held.begun.is_set()  # the second has opened no session yet
        assert repository.get(NAME)
        held.may_go_on.set()
        await asyncio.gather(first, second, third)
        assert held.begun.is_set()
        assert [entry.state for entry in repository.named(NAME)] == ["UNAVAILABLE"]


async def test_at_the_end_a_load_under_way_is_finished_and_no_other_begun(tmp_path: Path) -> None:
    held, others = Held(), set(threading.enumerate())
    async with serving(tmp_path, held.provider) as (_, control):
        held.hold()
        first = asyncio.create_task(control.load(NAME))
        await held.stops()
        waiting = asyncio.create_task(control.load(NAME))
        await asyncio.sleep(0)
        closing = asyncio.create_task(control.close())
        await asyncio.sleep(0)
        assert not closing.done()
        held.may_go_on.set()
        await closing
        await first
        for refused in (waiting, control.unload(NAME)):
            with pytest.raises(ModelNotReadyError, match="the server is about to end"):
                await refused
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name.startswith(NAME)]


async def test_what_was_replaced_goes_without_the_collector(tmp_path: Path) -> None:
    """Which never looks at what was there when the service had started: see ``ModelControl.start``."""
    async with serving(tmp_path) as (repository, control):
        model: Any = repository.get(NAME)
        x = {"x": np.zeros((2, 64), "f4")}
        assert (await model.run(None, x, Call(60)))["logits"].shape == (2, 10)
        assert model.plans
        replaced = [weakref.ref(each) for each in (model, model.onnx_model, model.batcher, model.plans)]
        del model
        gc.disable()
        try:
            await control.load(NAME)
            await control.close()
            assert [each() for each in replaced] == [None] * 4
        finally:
            gc.enable()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
async def test_memory_does_not_grow_with_loads(tmp_path: Path) -> None:
    """One that stayed would take 5 MB or more, for the weights alone."""
    shutil.copytree(ARTIFACTS / BIG, tmp_path / BIG)
    async with serving(tmp_path) as (_, control):
        after_each = []
        for _ in range(50):
            await control.load(BIG)
            after_each.append(resident_mb())
    print("resident MB after each fifth load:", *(round(each) for each in after_each[4::5]))
    assert min(after_each[-10:]) - min(after_each[5:15]) < 25
