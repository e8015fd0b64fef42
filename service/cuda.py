"""NVIDIA's GPUs: whether one can be had here, and what onnxruntime's CUDA provider is told (docs/decisions/0015)."""

import ctypes
import io
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

EXECUTION_PROVIDER = "CUDAExecutionProvider"
DRIVER = "libcuda.so.1"

# Not more sessions for more cores: on a GPU one large batch is what is quick, and every session has the weights, a
# workspace and an arena once more. Reasoned, not measured: docs/decisions/0015.
INSTANCES = 1

_INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"  # the extra gpu


class NoGpuError(Exception):
    """Why nothing can be computed on a GPU here, and what to do about it."""


@dataclass(frozen=True)
class Gpu:
    """One that answers."""

    name: str
    cuda: str  # the newest version that its driver knows

    def __str__(self) -> str:
        return f"{self.name}, driver for CUDA {self.cuda}"


def find_gpu(available: Collection[str] | None = None, load_library: Callable[[str], Any] = ctypes.CDLL) -> Gpu:
    """The GPU that sessions with ``add_provider`` will be on, the CUDA provider loaded. Raises NoGpuError.

    No memory of the GPU is taken: the parent of several workers asks as well. available: the providers that onnxruntime
    was built with, asked when not given. load_library: see ``first_gpu``.
    """
    if EXECUTION_PROVIDER not in (ort.get_available_providers() if available is None else available):
        raise NoGpuError(
            f"the installed onnxruntime has no {EXECUTION_PROVIDER}: pip uninstall onnxruntime, then {_INSTALL} "
            "(the extra gpu); the two packages overwrite each other's files"
        )
    gpu = first_gpu(load_library)
    _begin(gpu)
    return gpu


def first_gpu(load_library: Callable[[str], Any] = ctypes.CDLL) -> Gpu:
    """The first that the driver shows, which hides what CUDA_VISIBLE_DEVICES leaves out. Raises NoGpuError.

    load_library: opens the driver's by its name, or raises OSError.
    """
    try:
        driver = load_library(DRIVER)
    except OSError as error:
        raise NoGpuError(
            f"no NVIDIA driver answers ({error}): it must be installed on the machine, and handed into a container "
            "(docker run --gpus all)"
        ) from error

    def ask(function: str, *arguments: Any) -> None:
        if code := getattr(driver, function)(*arguments):
            raise NoGpuError(
                f"the NVIDIA driver shows no GPU ({function} answers {code}): nvidia-smi must list one, "
                "and CUDA_VISIBLE_DEVICES must not hide it"
            )

    version, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    ask("cuInit", 0)
    ask("cuDriverGetVersion", ctypes.byref(version))
    ask("cuDeviceGetName", name, len(name), 0)
    return Gpu(name.value.decode(errors="replace"), f"{version.value // 1000}.{version.value % 1000 // 10}")


def _begin(gpu: Gpu) -> None:
    """Load CUDA and the provider, and have it look for the GPU. Raises NoGpuError."""
    ort.set_default_logger_severity(4)  # its errors are raised as well, and the log is to have one form
    said = io.StringIO()
    with redirect_stdout(said):  # preload_dlls prints what it cannot load
        ort.preload_dlls()
    try:
        add_provider(ort.SessionOptions())
    except Exception as error:  # onnxruntime has no common base class for its errors
        words = " ".join((said.getvalue() or str(error)).split()).rstrip(".; ")
        raise NoGpuError(
            f"onnxruntime's CUDA provider cannot be loaded: {words}; {_INSTALL} (the extra gpu) brings "
            f"CUDA, of which the driver must know the version: onnxruntime is built for {ort.cuda_version}; {gpu}"
        ) from error


def add_provider(options: ort.SessionOptions, memory_bytes: int | None = None) -> None:
    """Have a session computed on the GPU. memory_bytes: what its arena may take, all there is if not given."""
    options.use_deterministic_compute = True
    options.add_provider(EXECUTION_PROVIDER, provider_options(memory_bytes))


def provider_options(memory_bytes: int | None) -> dict[str, str]:
    """Every option that answers or memory depend on, whatever is the default."""
    options = {
        "device_id": "0",  # of those that CUDA_VISIBLE_DEVICES leaves
        "use_tf32": "0",  # TF32 has fp32's range and a significand of 10 bits: fp32 is to be fp32
        # EXHAUSTIVE, the default, is free to time a convolution's algorithms and take another one at the next start.
        # HEURISTIC asks cuDNN's table, which answers the same for the same shape, GPU and version.
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",  # a stream of its own for copies may let them race (onnxruntime#4829)
        # Its own growth is to the next power of two, once for each session.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options if memory_bytes is None else options | {"gpu_mem_limit": str(memory_bytes)}
