"""Computing on a GPU, as far as that can be tested without one; what needs one is in tests/http/test_cuda.py."""

import ctypes
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import onnxruntime as ort
import pytest

from service import certificate, cuda
from service.artifact import Artifact
from service.cuda import EXECUTION_PROVIDER, Gpu, NoGpuError, find_gpu, first_gpu, provider_options
from service.loader import Loader
from service.manifest import ArtifactError
from service.metrics import Metrics
from service.model_config import model_config
from service.provider import CPU, Provider, division, nodes_by_provider, provider_of
from service.settings import SettingError, Settings
from service.tallies import Tallies

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
HAS_CUDA = EXECUTION_PROVIDER in ort.get_available_providers()
stock = pytest.mark.skipif(HAS_CUDA, reason="the installed onnxruntime is onnxruntime-gpu")

A_GPU = Gpu("A fake", "13.0")


def settings(**changes: Any) -> Settings:
    return Settings(model_repository=ARTIFACTS, **changes)


def fake_gpu() -> Gpu:
    return A_GPU


def no_gpu() -> Gpu:
    raise NoGpuError("there is none in this test")


class FakeDriver:
    """What NVIDIA's driver answers: a fake of libcuda.so.1, which only a machine with a GPU has."""

    def __init__(self, answers: int = 0) -> None:
        self.answers = answers
        self.opened = ""

    def load(self, name: str) -> "FakeDriver":
        self.opened = name
        return self

    def cuInit(self, _flags: int) -> int:  # noqa: N802  # as NVIDIA has it
        return self.answers

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        ctypes.cast(version, ctypes.POINTER(ctypes.c_int)).contents.value = 13020
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:  # noqa: N802
        assert (size, device) == (256, 0)
        name.value = b"NVIDIA H100 80GB HBM3"
        return 0


# ---- what is refused, and in which words -----------------------------------------------------------------------------


@stock
def test_without_the_package_it_ends_with_2_and_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "--execution-provider", "cuda"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "--execution-provider (NORMSERVE_EXECUTION_PROVIDER) is 'cuda': the installed onnxruntime has no "
        "CUDAExecutionProvider: pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]' (the extra "
        "gpu); the two packages overwrite each other's files\n"
    )
    assert done.stdout == ""


def test_without_a_driver_it_says_that_it_must_be_there() -> None:
    def load(name: str) -> Any:
        assert name == "libcuda.so.1"
        return ctypes.CDLL("libcuda-of-no-machine.so.1")  # the loader's own words

    with pytest.raises(NoGpuError, match=r"no NVIDIA driver answers \(libcuda-of-no-machine.so.1: .*--gpus all"):
        find_gpu([EXECUTION_PROVIDER], load)


def test_a_driver_that_shows_no_gpu_is_not_enough() -> None:
    with pytest.raises(NoGpuError, match=r"shows no GPU \(cuInit answers 100\): .*CUDA_VISIBLE_DEVICES"):
        find_gpu([EXECUTION_PROVIDER], FakeDriver(answers=100).load)


def test_the_gpu_and_its_drivers_version_are_named() -> None:
    driver = FakeDriver()
    assert str(first_gpu(driver.load)) == "NVIDIA H100 80GB HBM3, driver for CUDA 13.2"
    assert driver.opened == "libcuda.so.1"


@stock
def test_a_provider_that_onnxruntime_cannot_load_is_refused_with_its_words() -> None:
    """A fake driver, and the error of the real onnxruntime."""
    with pytest.raises(
        NoGpuError, match=r"cannot be loaded: .*Failed to add provider .* \(the extra gpu\) .*CUDA 13.2"
    ):
        find_gpu([EXECUTION_PROVIDER], FakeDriver().load)


def test_the_refusal_names_the_setting() -> None:
    with pytest.raises(SettingError, match=r"NORMSERVE_EXECUTION_PROVIDER\) is 'cuda': there is none in this test"):
        provider_of(settings(execution_provider="cuda"), find_gpu=no_gpu)


@pytest.mark.parametrize(("name", "who"), [("cuda", "cuda computes"), ("auto", "cuda and cpu compute")])
def test_bf16_is_refused(name: str, who: str) -> None:
    with pytest.raises(SettingError, match=rf"NORMSERVE_PRECISION\) is 'bf16': {who} in fp32 only; .*openvino"):
        provider_of(settings(execution_provider=name, precision="bf16"), {"amx_bf16"}, fake_gpu)


@pytest.mark.parametrize("name", ["cpu", "openvino"])
def test_memory_of_a_gpu_is_refused_where_none_computes(name: str) -> None:
    with pytest.raises(SettingError, match=rf"NORMSERVE_GPU_MEMORY_BYTES\) is '1000': {name} computes on no GPU"):
        provider_of(settings(execution_provider=name, gpu_memory_bytes=1000))


# ---- auto ------------------------------------------------------------------------------------------------------------


def test_auto_takes_cpu_where_there_is_no_gpu_and_says_why() -> None:
    provider = provider_of(settings(execution_provider="auto", gpu_memory_bytes=1000), find_gpu=no_gpu)
    assert provider == replace(CPU, why="auto: there is none in this test")


def test_auto_takes_the_gpu_where_there_is_one_and_names_it() -> None:
    provider = provider_of(settings(execution_provider="auto"), find_gpu=fake_gpu)
    assert (provider.name, provider.why) == ("cuda", "A fake, driver for CUDA 13.0")


def test_auto_serves_on_this_machine_and_says_on_what(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serve(execution_provider="auto") as address:
        config = httpx.get(f"{address}/v2/models/ln-mlp-digits/config").json()
    taken = provider_of(settings(execution_provider="auto"))
    assert config["execution_provider"] == taken.name
    assert f"models are computed on {taken} ({taken.why}), operations on cpu" in caplog.messages


# ---- what is asked of a GPU ------------------------------------------------------------------------------------------


def test_a_gpu_computes_in_fp32_and_its_claims_are_reported() -> None:
    provider = provider_of(settings(execution_provider="cuda"), find_gpu=fake_gpu)
    assert str(provider) == "cuda, fp32"
    assert (provider.tolerance, provider.certificate, provider.on_cores) == (None, "report", False)
    assert provider.execution_provider == EXECUTION_PROVIDER


def test_no_option_that_answers_depend_on_is_left_to_a_default() -> None:
    options = {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert provider_options(None) == options
    assert provider_options(10**9) == options | {"gpu_mem_limit": "1000000000"}


def test_config_says_that_a_gpu_computes() -> None:
    manifest = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1").manifest
    group = model_config(manifest, settings(execution_provider="cuda"), 1)["instance_group"]
    assert group == [{"kind": "KIND_GPU", "gpus": [0], "count": 1, "intra_op_threads": 1}]


# ---- who computes: with the CPU's provider, named as another one would be --------------------------------------------


def by_name(intra_op_threads: int) -> ort.SessionOptions:
    options = certificate.session_options(intra_op_threads)
    (device,) = (each for each in ort.get_ep_devices() if each.ep_name == CPU.execution_provider)
    options.add_provider_for_devices([device], {})
    return options


def load(provider: Provider, **changes: Any) -> Any:
    loader = Loader(settings(**changes), provider)
    metrics = Metrics(Tallies()).of_model("ln-lstm-charlm", "1")
    return loader.model(ARTIFACTS / "ln-lstm-charlm" / "1", metrics)


def test_nodes_are_counted_by_provider_with_those_of_a_scan() -> None:
    artifact = Artifact.read(ARTIFACTS / "ln-lstm-charlm" / "1")
    nodes = nodes_by_provider(certificate.open_session(artifact.graph, artifact.weights, 1, by_name))
    assert list(nodes) == ["CPUExecutionProvider"]
    assert (nodes["CPUExecutionProvider"]["Scan"], nodes["CPUExecutionProvider"]["LayerNormalization"]) == (1, 3)


async def test_a_model_of_which_the_provider_computes_nothing_is_refused() -> None:
    silent = replace(CPU, name="cuda", session_options=by_name, execution_provider=EXECUTION_PROVIDER)
    with pytest.raises(ArtifactError, match="^cuda computes none of its nodes$"):
        await load(silent)


class Divided:
    """A fake of a session that two providers share, which only a GPU's is here."""

    def __init__(self, **operators: list[str]) -> None:
        self._operators = operators

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [_Part(name, operators) for name, operators in self._operators.items()]


class _Part:
    def __init__(self, name: str, operators: list[str]) -> None:
        self.ep_name = name
        self.get_nodes: Callable[[], list[Any]] = lambda: [type("Node", (), {"op_type": each}) for each in operators]


def test_what_is_left_to_the_cpu_is_said() -> None:
    provider = provider_of(settings(execution_provider="cuda"), find_gpu=fake_gpu)
    session = Divided(CUDAExecutionProvider=["MatMul", "Scan"], CPUExecutionProvider=["Shape", "Gather", "Shape"])
    assert division(provider, session) == "cuda computes 2 of 5 nodes, cpu Shape (2), cpu Gather (1)"


@pytest.mark.parametrize(("instances", "threads"), [(None, [1, 2]), (3, [1, 2, 1, 1])])
async def test_one_session_serves_a_model_and_none_has_every_core(instances: int | None, threads: list[int]) -> None:
    opened = []

    def options(intra_op_threads: int) -> ort.SessionOptions:
        opened.append(intra_op_threads)
        return certificate.session_options(intra_op_threads)

    model = await load(replace(CPU, session_options=options, on_cores=False), instances=instances)
    assert opened == threads  # the second is there for the certificate alone
    assert model.instances == (instances or cuda.INSTANCES)
    before = set(threading.enumerate())
    await model.onnx_model.run_alone(certificate.probe_inputs(model.manifest)[0])
    begun = set(threading.enumerate()) - before
    assert [thread.name for thread in begun] == [f"ln-lstm-charlm-{model.instances - 1}_0"]  # not -wide_0
    await model.close()


def test_a_provider_that_fails_is_not_silently_the_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Onnxruntime's Python would print that it falls back, and try again."""
    with pytest.raises(ArtifactError, match="or the execution provider cannot compile it"):
        certificate.open_session(b"damaged", b"", 1, by_name)
    assert capsys.readouterr().out == ""
