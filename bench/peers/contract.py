"""What every peer is held to: how it is started, and the session it runs the model in.

Runs in each peer's environment, which has onnxruntime and nothing else of ours.
"""

import argparse
from pathlib import Path

import onnxruntime

INSTANCES = 2  # sessions of one thread each, on the two cores that all figures are of; ours has as many


def arguments() -> tuple[int, Path]:
    """The port to listen on at 127.0.0.1, and the folder of model.onnx: ``<name>/<version>``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    given = parser.parse_args()
    return given.port, given.model.resolve()


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """A session of one thread that does not spin, as our own service's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model / "model.onnx", options, providers=["CPUExecutionProvider"])
