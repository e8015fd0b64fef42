"""The model as Triton's Python backend runs it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # Triton puts it on the path

from bench.peers.contract import open_session


class TritonPythonModel:
    """x -> y, all requests of a batch in one run."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once in each instance."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.session = open_session(Path(parameters["model"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer a request, in their order."""
        inputs = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        (y,) = self.session.run(None, {"x": np.concatenate(inputs)})
        answers = np.split(y, np.cumsum([len(each) for each in inputs])[:-1])
        return [triton.InferenceResponse([triton.Tensor("y", answer)]) for answer in answers]
