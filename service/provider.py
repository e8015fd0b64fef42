"""What computes the models: an execution provider at a precision, as the options every session of theirs has.

docs/decisions/0008 says why OpenVINO is told everything that it would otherwise choose by the machine, and 0015 what
becomes of the promises on a GPU.
"""

import importlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from service import cuda
from service.certificate import session_options
from service.cuda import Gpu, NoGpuError
from service.manifest import ArtifactError
from service.settings import Settings, refused

CPUINFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}

# bf16 has a significand of 8 bits, so one rounding errs by up to u = 2^-8 of the number. Our deepest models, of six
# layers, round about 64 times from input to output (ten times a layer: norms, products, softmax or activation, sums),
# and independent errors add up to sqrt(64) u = 2^-5.
BF16_TOLERANCE = 2.0**-5

OPENVINO_PACKAGE = "onnxruntime-ep-openvino"
_OPENVINO_MODULE = "onnxruntime_ep_openvino"
_OPENVINO_NAME = "OpenVINOExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """Where models are computed. The normalisation operations always are on the CPU provider (decision 0006)."""

    name: str
    precision: str
    session_options: Callable[[int], ort.SessionOptions]  # intra-op threads -> the options of a session
    tolerance: float | None = None  # of parity with torch, in place of the manifest's, which is for fp32
    certificate: Literal["enforce", "report"] = "enforce"  # where the setting is not given
    execution_provider: str = "CPUExecutionProvider"  # onnxruntime's name of it
    on_cores: bool = True  # computes by the threads of its session, on the processor's cores
    why: str = ""  # it was taken, where the setting left that open

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}"


CPU = Provider("cpu", "fp32", session_options)


def processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What the processor can do, in the kernel's words; nothing where the kernel does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def provider_of(
    settings: Settings, flags: Collection[str] | None = None, find_gpu: Callable[[], Gpu] = cuda.find_gpu
) -> Provider:
    """What the settings ask for, made ready. flags: the processor's, read when not given.

    Raises SettingError, which names the setting, when it is not to be had on this machine.
    """
    name = settings.execution_provider
    if settings.gpu_memory_bytes is not None and name not in ("cuda", "auto"):
        raise refused("gpu_memory_bytes", settings.gpu_memory_bytes, f"{name} computes on no GPU; only cuda does")
    if settings.precision != "fp32" and name != "openvino":
        raise refused(
            "precision",
            settings.precision,
            f"{'cuda and cpu compute' if name == 'auto' else f'{name} computes'} in fp32 only; "
            "bf16 needs --execution-provider openvino",
        )
    if name == "openvino":
        return _openvino(settings, processor_flags() if flags is None else flags)
    if name == "cpu":
        return CPU
    try:
        gpu = find_gpu()
    except NoGpuError as error:
        if name == "auto":
            return replace(CPU, why=f"auto: {error}")
        raise refused("execution_provider", name, str(error)) from error
    return _cuda(settings, gpu)


def _cuda(settings: Settings, gpu: Gpu) -> Provider:
    def options(intra_op_threads: int) -> ort.SessionOptions:
        options = session_options(intra_op_threads)
        cuda.add_provider(options, settings.gpu_memory_bytes)
        return options

    return Provider(
        "cuda",
        "fp32",
        options,
        certificate="report",  # cuBLAS chooses a kernel by the number of rows, and with it the order of a sum
        execution_provider=cuda.EXECUTION_PROVIDER,
        on_cores=False,
        why=str(gpu),
    )


def division(provider: Provider, session: ort.InferenceSession) -> str:
    """How many of a model's nodes the provider computes, and which it leaves to the CPU's, as a sentence.

    Raises ArtifactError where it leaves them all.
    """
    nodes = nodes_by_provider(session)
    own, others = nodes.pop(provider.execution_provider, None), sum(nodes.values(), Counter())
    if not own:
        raise ArtifactError(f"{provider.name} computes none of its nodes")
    left = "".join(f", cpu {operator} ({count})" for operator, count in others.most_common())
    return f"{provider.name} computes {own.total()} of {own.total() + others.total()} nodes{left}"


def nodes_by_provider(session: ort.InferenceSession) -> dict[str, Counter[str]]:
    """Onnxruntime's name of a provider -> operators, and how many nodes of each it was given; bodies of Scan included.

    Of a session of ``open_session`` whose options name a provider.
    """
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return nodes


def _openvino(settings: Settings, flags: Collection[str]) -> Provider:
    bf16 = settings.precision == "bf16"
    if bf16 and BF16_FLAGS.isdisjoint(flags):
        # OpenVINO would take the hint and emulate it: the error of bf16 without its speed.
        raise refused(
            "precision",
            settings.precision,
            f"this processor has no instructions for it, neither {' nor '.join(sorted(BF16_FLAGS))}; use fp32",
        )
    device = openvino_device(_openvino_devices())

    def options(intra_op_threads: int) -> ort.SessionOptions:
        options = session_options(intra_op_threads)
        options.add_provider_for_devices(
            [device], {"load_config": openvino_config(settings.precision, intra_op_threads)}
        )
        return options

    if bf16:
        return Provider("openvino", "bf16", options, BF16_TOLERANCE, "report", _OPENVINO_NAME)
    return Provider("openvino", "fp32", options, execution_provider=_OPENVINO_NAME)


def openvino_config(precision: str, intra_op_threads: int) -> str:
    """OpenVINO's own knobs (``load_config``), none left to what it finds in the machine."""
    return json.dumps(
        {
            "CPU": {
                # Where the processor has bf16, OpenVINO takes it unasked.
                "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
                "INFERENCE_NUM_THREADS": intra_op_threads,
                "NUM_STREAMS": 1,  # a session runs one batch at a time: decision 0003
                # Every session would tie its threads to the same first cores.
                "ENABLE_CPU_PINNING": False,
            }
        }
    )


def openvino_device(devices: Sequence[Any]) -> Any:
    """The processor, of the devices that OpenVINO found. Raises SettingError when it is not among them."""
    found = [device for device in devices if device.ep_metadata.get("ov_device") == "CPU"]
    if not found:
        raise refused("execution_provider", "openvino", "OpenVINO does not support the processor of this machine")
    return found[0]


def _openvino_devices() -> list[Any]:
    """Registers the plugin, once a process. Raises SettingError when it is not installed or cannot be loaded."""
    if devices := _registered_devices():
        return devices
    package = OPENVINO_PACKAGE
    try:
        library = importlib.import_module(_OPENVINO_MODULE).get_library_path()
        ort.register_execution_provider_library(_OPENVINO_NAME, library)
    except ModuleNotFoundError as error:
        message = f"the package {package} (the extra openvino) is not installed: pip install {package}"
        raise refused("execution_provider", "openvino", message) from error
    except Exception as error:  # onnxruntime has no common base class for its errors
        message = f"the package {package} cannot be loaded: {error}"
        raise refused("execution_provider", "openvino", message) from error
    return _registered_devices()


def _registered_devices() -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == _OPENVINO_NAME]
