"""Which session runs, in which thread, on which core."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service import cores, runtime
from service.protocol import Arrays
from service.runtime import NICENESS, SHORT_RUN_S, OnnxModel, cores_for

X = {"x": np.zeros(1, "f4")}


class Session:
    """Notes where it ran, for longer than is done in passing; a held one runs until it is released."""

    def __init__(self, held: bool = False, seconds: float = 2 * SHORT_RUN_S) -> None:
        self.seconds = seconds
        self.threads: list[int] = []
        self.niceness = 0
        self.affinity = set[int]()
        self.begun, self.release = threading.Event(), threading.Event()
        if not held:
            self.release.set()

    def __call__(self, inputs: Arrays) -> Arrays:
        self.threads.append(threading.get_native_id())
        if hasattr(os, "sched_getaffinity"):
            self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            self.affinity = os.sched_getaffinity(0)
        self.begun.set()
        assert self.release.wait(20)
        if self.seconds:  # even none at all takes longer than a short run
            time.sleep(self.seconds)
        return inputs


async def test_the_session_that_ran_last_runs_next_in_its_own_thread() -> None:
    sessions = [Session(), Session(), Session()]
    model = OnnxModel("m", sessions)
    for _ in range(3):
        await model.run(X)
    assert [len(session.threads) for session in sessions] == [0, 0, 3]
    assert len(set(sessions[2].threads)) == 1
    assert sessions[2].threads[0] != threading.get_native_id()
    model.close()


async def test_runs_at_the_same_time_have_a_session_each() -> None:
    sessions = [Session(held=True), Session(held=True)]
    model = OnnxModel("m", sessions)
    runs = [asyncio.create_task(model.run(X)) for _ in range(2)]
    for session in sessions:
        await asyncio.to_thread(session.begun.wait, 20)
        session.release.set()
    await asyncio.gather(*runs)
    assert [len(session.threads) for session in sessions] == [1, 1]
    model.close()


async def test_what_takes_no_longer_than_the_way_to_a_thread_is_run_in_passing() -> None:
    narrow, wide = Session(seconds=0), Session(seconds=0)
    model = OnnxModel("m", [narrow], wide)
    for _ in range(20):  # the first few may be interrupted
        await model.run(X)
    assert narrow.threads[-1] == threading.get_native_id()
    assert narrow.threads[0] != narrow.threads[-1]  # before the first nothing is known
    await model.run_alone(X)
    assert wide.threads == []
    await model.run({"x": np.zeros((1 << 20,), "f4")})  # by its bytes, far longer
    assert narrow.threads[-1] != threading.get_native_id()
    model.close()


async def test_no_run_on_a_gpu_is_taken_to_be_short() -> None:
    session = Session(seconds=0)  # a fake: by what it took for its bytes, the next would be short
    model = OnnxModel("m", [session], on_cores=False)
    for _ in range(20):
        await model.run(X)
    assert len(session.threads) == 20
    assert threading.get_native_id() not in session.threads
    if hasattr(os, "sched_getaffinity"):
        assert session.affinity == os.sched_getaffinity(0)
    model.close()


async def test_a_lone_run_is_given_the_wide_session_if_there_is_one() -> None:
    narrow, wide = Session(), Session()
    model = OnnxModel("m", [narrow], wide)
    await model.run_alone(X)
    await model.run(X)
    assert (len(narrow.threads), len(wide.threads)) == (1, 1)
    model.close()
    model = OnnxModel("m", [narrow])
    await model.run_alone(X)
    assert len(narrow.threads) == 2
    model.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
async def test_computing_threads_are_nicer_and_stay_on_their_cores() -> None:
    usable, before = cores.usable_cores(), os.getpriority(os.PRIO_PROCESS, 0)
    own = Session()
    model = OnnxModel("m", [Session() for _ in usable[1:]] + [own])
    await model.run(X)
    assert own.niceness == min(19, before + NICENESS)
    assert own.affinity == ({usable[-1]} if cores_for(len(usable)) else set(usable))
    model.close()
    shared = Session()
    model = OnnxModel("m", [Session() for _ in usable] + [shared])  # one more than cores
    await model.run(X)
    assert shared.affinity == set(usable)
    model.close()
    assert os.getpriority(os.PRIO_PROCESS, 0) == before  # the event loop's thread stays as it is


@pytest.mark.parametrize(
    ("instances", "usable", "available", "found"),
    [
        (2, [0, 1], 2, [0, 1]),
        (2, [4, 7], 2, [4, 7]),
        (2, list(range(64)), 2, []),  # a quota: every container of this machine would choose cores 0 and 1
        (1, [0, 1], 2, []),
        (3, [0, 1], 2, []),
    ],
)
def test_an_instance_has_a_core_only_where_it_has_it_for_itself(
    monkeypatch: pytest.MonkeyPatch, instances: int, usable: list[int], available: int, found: list[int]
) -> None:
    monkeypatch.setattr(runtime, "usable_cores", lambda: usable)
    monkeypatch.setattr(runtime, "available_cores", lambda: available)
    assert cores_for(instances) == found


def test_onnxruntime_sends_nothing_home_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    left = []
    for telemetry in ({}, {"ORT_DISABLE_TELEMETRY": "0"}):
        home = tmp_path / str(len(telemetry))
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(Path.cwd()), **telemetry}
        subprocess.run([sys.executable, "-c", "import service.runtime"], env=environment, check=True)
        left.append([file.name for file in home.rglob("*") if file.is_file()])
    assert left[0] == []
    assert "deviceid" in left[1]  # or this test would look in the wrong place
