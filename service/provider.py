"""What computes the models: an execution provider at a precision, as the options every session of theirs has.

docs/decisions/0008 says why OpenVINO is told everything that it would otherwise choose by the machine.
"""

import importlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

from service.certificate import session_options
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


def provider_of(settings: Settings, flags: Collection[str] | None = None) -> Provider:
    """What the settings ask for, made ready. flags: the processor's, read when not given.

    Raises SettingError, which names the setting, when it is not to be had on this machine.
    """
    return _PROVIDERS[settings.execution_provider](settings, processor_flags() if flags is None else flags)


def _cpu(settings: Settings, _: Collection[str]) -> Provider:
    if settings.precision != "fp32":
        raise refused(
            "precision", settings.precision, "cpu computes in fp32 only; bf16 needs --execution-provider openvino"
        )
    return CPU


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
        return Provider("openvino", "bf16", options, BF16_TOLERANCE, "report")
    return Provider("openvino", "fp32", options)


_PROVIDERS: dict[str, Callable[[Settings, Collection[str]], Provider]] = {"cpu": _cpu, "openvino": _openvino}


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
