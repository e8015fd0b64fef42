"""The image, and the service in a container as Compose starts it."""

import re
import shutil
from pathlib import Path
from time import monotonic

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from service.version import VERSION
from tests.container.engine import (
    MEASURED,
    STANDIN_BASE,
    address_of,
    command,
    container,
    docker,
    inspected,
    run_inside,
)
from tests.waiting import until

pytestmark = pytest.mark.timeout(600)  # the first of them builds the image

ROOT = Path(__file__).parents[2]
MB = 10**6
OWN_MB, TOTAL_MB = 200, 330
MODEL = "ln-mlp-digits"


def logits(address: str) -> bytes:
    rows = np.random.default_rng(0).random((5, 64), dtype=np.float32)
    tensor = triton.InferInput("x", list(rows.shape), "FP32").set_data_from_numpy(rows)
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        answer = client.infer(MODEL, [tensor]).as_numpy("logits")
    assert answer.shape == (5, 10)
    return bytes(answer.tobytes())


def test_it_answers_through_the_published_port_with_the_bits_of_the_service_outside(service: str, address: str) -> None:
    assert logits(address_of(service)) == logits(address)


def test_every_model_serves(service: str) -> None:
    index = httpx.post(f"{address_of(service)}/v2/repository/index").json()
    assert {each["state"] for each in index} == {"READY"}
    assert {each["name"] for each in index} >= {folder.name for folder in (ROOT / "artifacts").iterdir()}


def test_it_is_healthy(service: str) -> None:
    health = inspected(service)["State"]["Health"]
    assert health["Status"] == "healthy"
    assert health["Log"][-1]["Output"] == ""


def test_its_process_is_nobody_and_may_become_nothing_else(service: str) -> None:
    assert inspected(service)["Config"]["User"] == "10001:10001"
    status = run_inside(service, "print(open('/proc/1/status').read())")
    assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    assert re.search(r"^Gid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{capabilities}:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)


def test_it_can_write_nowhere(service: str) -> None:
    tried = """
import os
for folder, _, _ in [("/tmp", 0, 0), ("/var/tmp", 0, 0), *os.walk("/app"), *os.walk("/opt/venv/lib")]:
    try:
        open(folder + "/x", "w")
    except OSError:
        continue
    print(folder)
"""
    assert run_inside(service, tried) == ""


def test_of_torch_onnx_and_pip_there_is_nothing_in_it(service: str) -> None:
    names = ["torch", "onnx", "onnxscript", "pip", "setuptools", "pytest", "models", "export", "experiments", "bench"]
    code = f"import sys; from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    # The base may have them: the environment's Python does not look there.
    assert run_inside(service, code) == "[]"


def test_traces_can_be_sent_from_it(service: str) -> None:
    code = "import service.traces, opentelemetry.exporter.otlp.proto.http.trace_exporter; print('there')"
    assert run_inside(service, code) == "there"


def test_it_may_have_so_much_memory_and_so_many_processes_and_no_more(service: str) -> None:
    limits = inspected(service)["HostConfig"]
    assert (limits["Memory"], limits["MemorySwap"], limits["PidsLimit"]) == (2 * 2**30, 2 * 2**30, 1024)
    code = """
from pathlib import Path
root = Path("/sys/fs/cgroup")
files = root / "memory.max", root / "memory" / "memory.limit_in_bytes"
print(next(file.read_text() for file in files if file.exists()))
"""
    assert run_inside(service, code) == str(2 * 2**30)
    used = int(re.search(r"^VmHWM:\s+(\d+) kB", run_inside(service, HIGHEST), re.MULTILINE)[1]) * 1024
    MEASURED["most memory after start"] = f"{used / MB:.0f} MB"
    assert used < limits["Memory"] / 2


# The service is the child of the container's init.
HIGHEST = "print(open(f'/proc/{open(\"/proc/1/task/1/children\").read().split()[0]}/status').read())"


def test_its_own_layers_are_small(image: str, history: list[dict[str, str]]) -> None:
    own = sum(int(layer["Size"]) for layer in history if re.search(r"/opt/venv |/app", layer["CreatedBy"]))
    total = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    MEASURED["own layers"] = f"{own / MB:.0f} MB"
    MEASURED["image"] = f"{total / MB:.0f} MB"
    assert 50 * MB < own <= OWN_MB * MB  # 50: that the layers were found
    if not STANDIN_BASE:  # which has its own size
        assert total <= TOTAL_MB * MB


def test_its_labels_say_what_it_was_built_from(image: str) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in inspected(image)["Config"]["Labels"].items()
    }
    assert labels["version"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["revision"])
    assert {"title", "description", "licenses"} <= set(labels)


def test_whatever_changes_but_the_requirements_nothing_is_installed_anew(history: list[dict[str, str]]) -> None:
    made = [re.search(r"/opt/venv |/app/\w+ ", layer["CreatedBy"]) for layer in history]
    assert [each[0].strip() for each in made if each] == ["/app/service", "/app/artifacts", "/opt/venv"]


def test_without_a_shell_it_serves_the_models_of_a_volume_and_writes_nothing(image: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "artifacts" / MODEL, tmp_path / "models" / MODEL)
    nothing = tmp_path / "nothing"
    nothing.touch()
    mounts = [f"--volume={nothing}:{shell}:ro" for shell in ("/usr/bin/dash", "/usr/bin/bash")]
    mounts.append(f"--volume={tmp_path / 'models'}:/app/artifacts:ro")
    began = monotonic()
    # What it tries to write would be there.
    mounts += ["--tmpfs=/home:mode=1777", "--env=HOME=/home"]
    with container(*mounts, "--env=NORMSERVE_DRAIN_SECONDS=0", "--health-interval=1s", flags=["--instances=1"]) as name:
        until(lambda: inspected(name)["State"]["Health"]["Status"] == "healthy", "healthy")
        MEASURED["docker run until healthy, 1 model"] = f"{monotonic() - began:.1f} s"
        served = {each["name"] for each in httpx.post(f"{address_of(name)}/v2/repository/index").json()}
        assert MODEL in served
        assert not any(each.endswith("charlm") for each in served)
        logits(address_of(name))
        # onnxruntime's telemetry begins with a device id in the home folder, which the image tells it not to send.
        assert run_inside(name, "import os; print(os.listdir('/home'))") == "[]"
        docker("stop", name)
        assert inspected(name)["State"]["ExitCode"] == 0
        changed = docker("diff", name).splitlines()
        # What is mounted upon, and the folders it is in.
        changed = [line for line in changed if not re.fullmatch(r"C /(usr|usr/bin|app)", line)]
        assert changed == []


@pytest.mark.parametrize(("runtime", "package"), [("cpu", "onnxruntime>="), ("gpu", "onnxruntime-gpu[cuda,cudnn]>=")])
def test_the_runtime_is_a_choice_of_the_build(engine: None, runtime: str, package: str) -> None:
    built = docker("build", "--quiet", "--target=requirements", f"--build-arg=RUNTIME={runtime}", ".")
    asked = docker("run", "--rm", built, "python", "-c", "print(open('requirements.txt').read())").splitlines()
    assert (
        [line for line in asked if line.startswith("onnxruntime")]
        == [line for line in asked if line.startswith(package)]
        != []
    )
    assert any(line.startswith("uvicorn") for line in asked)


def test_what_is_no_runtime_is_not_built(engine: None) -> None:
    with pytest.raises(AssertionError, match="KeyError: 'tpu'"):
        command("docker", "build", "--target=requirements", "--build-arg=RUNTIME=tpu", ".")
