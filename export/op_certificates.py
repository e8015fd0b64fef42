"""What is measured of the normalisation operations: their error against torch's own, and that threads change no bit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.certify import MEANS
from export.held_out import Array, Arrays
from service.certificate import Run, open_graph, thread_invariant
from service.manifest import Certificate, Certificates, Claim

VERSION = "1"
SEED = 7
EPS = 1e-5
THREADS = (1, 2, 4)
DTYPES: dict[str, type[np.floating]] = {"FP32": np.float32, "FP64": np.float64}


@dataclass(frozen=True)
class Trial:
    """A graph, the axes its statistics are of, the shapes it takes, and torch's kernel for the same."""

    graph: str
    x: tuple[int, ...]
    affine: tuple[int, ...]
    axes: tuple[int, ...]
    by_torch: Callable[[dict[str, Tensor]], Tensor]
    running: bool = False


def _affine(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return inputs["weight"].flatten(), inputs["bias"].flatten()


def _layer_norm(inputs: dict[str, Tensor]) -> Tensor:
    return F.layer_norm(inputs["x"], inputs["x"].shape[-1:], *_affine(inputs), eps=EPS)


def _rms_norm(inputs: dict[str, Tensor]) -> Tensor:
    return F.rms_norm(inputs["x"], inputs["x"].shape[-1:], inputs["weight"], EPS) + inputs["bias"]


def _group_norm(inputs: dict[str, Tensor]) -> Tensor:
    x = inputs["x"]  # (N, G, K, S) -> (N, G K, S)
    return F.group_norm(x.flatten(1, 2), x.shape[1], *_affine(inputs), eps=EPS).reshape(x.shape)


def _instance_norm(inputs: dict[str, Tensor]) -> Tensor:
    x, (weight, bias) = inputs["x"], _affine(inputs)
    return F.instance_norm(x.flatten(1, 2), weight=weight, bias=bias, eps=EPS).reshape(x.shape)


def _batch_norm(inputs: dict[str, Tensor]) -> Tensor:
    running = inputs["running_mean"].flatten(), inputs["running_var"].flatten()
    return F.batch_norm(inputs["x"], *running, *_affine(inputs), eps=EPS)


def _batch_norm_training(inputs: dict[str, Tensor]) -> Tensor:
    x, (weight, bias) = inputs["x"], _affine(inputs)  # (C, M) -> (M, C) and back
    return F.batch_norm(x.T, None, None, weight, bias, training=True, eps=EPS).T


TRIALS = {
    "layer_norm": [Trial("layer_norm", (64, 768), (768,), (-1,), _layer_norm)],
    "rms_norm": [Trial("rms_norm", (64, 768), (768,), (-1,), _rms_norm)],
    "group_norm": [Trial("group_norm", (8, 4, 16, 49), (4, 16, 1), (2, 3), _group_norm)],
    "instance_norm": [Trial("group_norm", (8, 64, 1, 49), (64, 1, 1), (2, 3), _instance_norm)],
    "batch_norm": [
        Trial("batch_norm", (8, 64, 49), (64, 1), (), _batch_norm, running=True),
        Trial("batch_norm_training", (64, 392), (64, 1), (1,), _batch_norm_training),
    ],
}


def inputs_of(trial: Trial, mean: float, datatype: str) -> Arrays:
    """Seeded N(mean, 1) values, and weights and statistics to go with them."""
    rng, dtype = np.random.default_rng(SEED), DTYPES[datatype]
    inputs = {
        "x": rng.standard_normal(trial.x) + mean,
        "weight": rng.standard_normal(trial.affine),
        "bias": rng.standard_normal(trial.affine),
    }
    if trial.running:
        inputs |= {"running_mean": rng.standard_normal(trial.affine) + mean, "running_var": rng.random(trial.affine)}
    return {name: array.astype(dtype) for name, array in inputs.items()}


def exact(trial: Trial, inputs: Arrays) -> Array:
    """The definition in numpy's longest float, in two passes."""
    x, weight, bias = (inputs[name].astype(np.longdouble) for name in ("x", "weight", "bias"))
    eps = np.longdouble(EPS)
    if trial.running:
        running_mean, running_var = (inputs[name].astype(np.longdouble) for name in ("running_mean", "running_var"))
        deviation, variance = x - running_mean, running_var
    else:
        deviation = x if trial.graph == "rms_norm" else x - x.mean(trial.axes, keepdims=True)
        variance = (deviation**2).mean(trial.axes, keepdims=True)
    y: Array = deviation / np.sqrt(variance + eps) * weight + bias
    return y


def float64_error(trials: list[Trial], runs: dict[tuple[str, str], Run]) -> Claim:
    """The largest error of torch's kernel and of ours, in each datatype, for values of each mean."""
    measured: dict[str, dict[str, float]] = {}
    for trial in trials:
        for datatype in DTYPES:
            for mean in MEANS:
                inputs = inputs_of(trial, mean, datatype)
                wanted = exact(trial, inputs)
                by_torch = trial.by_torch({name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
                served = runs[trial.graph, datatype](inputs | {"eps": np.array(EPS, DTYPES[datatype])})["y"]
                what = f"{trial.graph} {datatype}, mean {mean:g}"
                measured[what] = {
                    "torch_max": float(np.abs(by_torch - wanted).max()),
                    "served_max": float(np.abs(served - wanted).max()),
                    "ulp": float(np.spacing(DTYPES[datatype](np.abs(wanted).max()))),
                }
    return Claim(
        claim="float64_error",
        holds=all(case["served_max"] <= 2 * case["torch_max"] + 2 * case["ulp"] for case in measured.values()),
        measured=measured,
        how="largest absolute error against the definition in two passes in a longer float; holds when the operation's "
        "is at most twice that of torch's kernel, plus 2 ulp of the largest output",
        checked="export",
    )


def threads_change_nothing(trials: list[Trial], runs: dict[int, dict[tuple[str, str], Run]]) -> Claim:
    """``thread_invariant`` over every graph of an operation, its figures added up."""
    claims = [
        thread_invariant(
            {threads: graphs[trial.graph, datatype] for threads, graphs in runs.items()},
            [inputs_of(trial, mean, datatype) | {"eps": np.array(EPS, DTYPES[datatype])} for mean in MEANS],
            checked="export",
        )
        for trial in trials
        for datatype in DTYPES
    ]
    added = {
        figure: sum(claim.measured[figure] for claim in claims)
        for figure in ("batches_compared", "mismatching_batches")
    }
    return claims[0].model_copy(
        update={"holds": all(claim.holds for claim in claims), "measured": claims[0].measured | added}
    )


def op_certificates(folder: Path) -> Certificates:
    """The certificate of every operation, measured on the graphs in ``folder``."""
    names = {(trial.graph, datatype) for trials in TRIALS.values() for trial in trials for datatype in DTYPES}
    files = {(graph, datatype): (folder / f"{graph}.{datatype}.onnx").read_bytes() for graph, datatype in names}
    runs = {threads: {key: open_graph(content, threads) for key, content in files.items()} for threads in THREADS}
    return Certificates(
        [
            Certificate(
                model_name=name,
                model_version=VERSION,
                claims=[float64_error(trials, runs[1]), threads_change_nothing(trials, runs)],
            )
            for name, trials in TRIALS.items()
        ]
    )
