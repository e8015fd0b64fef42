"""Triton, as nvidia-pytriton packs it (its 0.7.0 has Triton 2.51), without pytriton's own hop to a Python process.

Requests/s of settings tried on two cores that wrk shares, 16 connections: two instances 598 (8 rows, no delay), 577
(16 rows, no delay, two HTTP threads), 471 (16 rows, 1 ms); one instance of two threads 519 (16 rows, no delay). The
package has no onnxruntime backend, so onnxruntime is called in the Python backend.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton

from bench.peers.contract import INSTANCES, arguments

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [-1, -1] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [-1, -1] }}]
instance_group [{{ kind: KIND_CPU count: {instances} }}]
dynamic_batching {{ }}
parameters {{ key: "model" value {{ string_value: "{model}" }} }}
"""


def lay_out(model: Path, folder: Path, triton: Path) -> None:
    """Triton's model repository, and its Python backend with the stub of this Python, as pytriton lays it out."""
    stub = "{}.{}/triton_python_backend_stub".format(*sys.version_info)
    shutil.copytree(triton / "backends", folder / "backends")
    shutil.copy(triton / "python_backend_stubs" / stub, folder / "backends" / "python")
    version = folder / "models" / model.parent.name / "1"
    version.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("triton_model.py"), version / "model.py")
    config = CONFIG.format(name=model.parent.name, instances=INSTANCES, model=model)
    (version.parent / "config.pbtxt").write_text(config)


def main() -> None:
    """Becomes Triton."""
    port, model = arguments()
    package = Path(pytriton.__file__).parent
    folder = Path(tempfile.gettempdir())
    lay_out(model, folder, package / "tritonserver")
    command = [str(package / "tritonserver" / "bin" / "tritonserver")]
    command += ["--model-repository", str(folder / "models"), "--backend-directory", str(folder / "backends")]
    command += ["--http-address", "127.0.0.1", "--http-port", str(port)]
    command += ["--allow-grpc", "false", "--allow-metrics", "false"]
    environment = os.environ | {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",  # the stub takes its Python's packages from the first there
        "PYTHONPATH": str(Path.cwd()),
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),  # the stub was copied away from them
    }
    os.execve(command[0], command, environment)  # noqa: S606


if __name__ == "__main__":
    main()
