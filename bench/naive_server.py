"""The same as most people would serve it: FastAPI, pydantic bodies of lists, numpy or onnxruntime, a list back."""

import os
from functools import cache

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

MODEL = "NAIVE_MODEL"  # the file that /infer runs

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


@cache
def session() -> ort.InferenceSession:
    """With the options that onnxruntime has by itself."""
    return ort.InferenceSession(os.environ[MODEL], providers=["CPUExecutionProvider"])


class InferRequest(BaseModel):
    """Sequences of vectors."""

    x: list[list[list[float]]]


@app.post("/infer")
def infer(request: InferRequest) -> dict[str, list[list[list[float]]]]:
    """The model's output."""
    (y,) = session().run(["y"], {"x": np.array(request.x, np.float32)})
    return {"y": y.tolist()}


@app.get("/ready")
def ready() -> bool:
    """Answers once there is something to answer with."""
    return MODEL not in os.environ or session() is not None
