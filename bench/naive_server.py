"""``layer_norm`` as most people would serve it: FastAPI, a pydantic body of lists, numpy, a list back."""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class LayerNormRequest(BaseModel):
    """Rows, and the weights of their columns."""

    x: list[list[float]]
    weight: list[float]
    bias: list[float]
    eps: float = 1e-5


@app.post("/layer_norm")
def layer_norm(request: LayerNormRequest) -> dict[str, list[list[float]]]:
    """Normalise each row."""
    x = np.array(request.x, np.float32)
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    y = (x - mean) / np.sqrt(variance + request.eps) * np.array(request.weight, "f4") + np.array(request.bias, "f4")
    return {"y": y.tolist()}
