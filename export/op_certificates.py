"""What is measured of the normalisation operations: their error against torch's own, and that threads change no bit."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.certify import MEANS
from export.held_out import Array, Arrays
from service.certificate import Run, all_outputs, open_graph, thread_invariant
from service.manifest import Certificate, Certificates, Claim

VERSION = "1"
SEED = 7
EPS = 1e-5
THREADS = (1, 2, 4)
DTYPES: dict[str, type[np.floating]] = {"FP32": np.float32, "FP64": np.float64}


@dataclass(frozen=True)
class Trial:
    """The graphs of an operation, shapes they take, and torch's kernel for the same.

    graphs: by the datatype that is asked for, ``<name>.<datatype it computes in>``. x is (R, G, K). positions: numbers
    that lie together and share a weight. centred: whether the mean is taken off.
    """

    what: str
    graphs: dict[str, str]
    x: tuple[int, int, int]
    affine: tuple[int, int]
    by_torch: Callable[[dict[str, Tensor]], Tensor]
    running: bool = False
    positions: int = 1
    centred: bool = True


def _affine(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return inputs["weight"].flatten(), inputs["bias"].flatten()


def _layer_norm(inputs: dict[str, Tensor]) -> Tensor:
    return F.layer_norm(inputs["x"], inputs["x"].shape[-1:], *_affine(inputs), eps=EPS)


def _rms_norm(inputs: dict[str, Tensor]) -> Tensor:
    weight, bias = _affine(inputs)
    return F.rms_norm(inputs["x"], inputs["x"].shape[-1:], weight, EPS) + bias


def _group_norm(inputs: dict[str, Tensor], positions: int) -> Tensor:
    x, groups = inputs["x"], inputs["x"].shape[1]
    weight, bias = (array[:, ::positions].flatten() for array in (inputs["weight"], inputs["bias"]))
    return F.group_norm(x.reshape(x.shape[0], -1, positions), groups, weight, bias, EPS).reshape(x.shape)


def _instance_norm(inputs: dict[str, Tensor]) -> Tensor:
    weight, bias = _affine(inputs)
    return F.instance_norm(inputs["x"], weight=weight, bias=bias, eps=EPS)


def _batch_norm(inputs: dict[str, Tensor]) -> Tensor:
    running = inputs["running_mean"].flatten(), inputs["running_var"].flatten()
    return F.batch_norm(inputs["x"], *running, *_affine(inputs), eps=EPS)


def _batch_norm_training(inputs: dict[str, Tensor]) -> Tensor:
    weight, bias = _affine(inputs)
    return F.batch_norm(inputs["x"], None, None, weight, bias, training=True, eps=EPS)


GROUPS, CHANNELS_OF_A_GROUP, POSITIONS = 4, 16, 49
CHANNELS = GROUPS * CHANNELS_OF_A_GROUP
IMAGE = 3 * 224 * 224

TRIALS = {
    "layer_norm": [
        Trial(
            "as served",
            {"FP32": "layer_norm.FP32", "FP64": "two_passes.FP64"},
            (64, 1, 768),
            (1, 768),
            _layer_norm,
        )
    ],
    "rms_norm": [
        Trial(
            "as served",
            {"FP32": "rms_norm.FP32", "FP64": "rms_norm.FP64"},
            (64, 1, 768),
            (1, 768),
            _rms_norm,
            centred=False,
        )
    ],
    "group_norm": [
        Trial(
            "as served",
            {"FP32": "group_norm.FP32", "FP64": "two_passes.FP64"},
            (8, GROUPS, CHANNELS_OF_A_GROUP * POSITIONS),
            (GROUPS, CHANNELS_OF_A_GROUP * POSITIONS),
            partial(_group_norm, positions=POSITIONS),
            positions=POSITIONS,
        ),
        # A row of an image: onnxruntime's FP32 kernel sums it too naively, so FP64 computes it.
        Trial(
            "long rows",
            dict.fromkeys(DTYPES, "two_passes.FP64"),
            (2, 1, IMAGE),
            (1, IMAGE),
            partial(_group_norm, positions=1),
        ),
    ],
    "instance_norm": [
        Trial(
            "as served",
            {"FP32": "group_norm.FP32", "FP64": "two_passes.FP64"},
            (8, CHANNELS, 2 * POSITIONS),
            (CHANNELS, 1),
            _instance_norm,
        )
    ],
    "batch_norm": [
        Trial(
            "as served",
            {"FP32": "batch_norm.FP64", "FP64": "batch_norm.FP64"},
            (8, CHANNELS, 2 * POSITIONS),
            (CHANNELS, 1),
            _batch_norm,
            running=True,
        ),
        Trial(
            "training",
            {"FP32": "two_passes.FP64", "FP64": "two_passes.FP64"},
            (1, CHANNELS, 8 * POSITIONS),
            (CHANNELS, 1),
            _batch_norm_training,
        ),
    ],
}


def inputs_of(trial: Trial, mean: float, datatype: str) -> Arrays:
    """Seeded N(mean, 1) values, and weights and statistics to go with them."""
    rng = np.random.default_rng(SEED)
    groups, size = trial.affine
    channels = (groups, size // trial.positions)
    inputs = {
        "x": rng.standard_normal(trial.x) + mean,
        **{name: rng.standard_normal(channels).repeat(trial.positions, axis=1) for name in ("weight", "bias")},
    }
    if trial.running:
        inputs |= {"running_mean": rng.standard_normal(trial.affine) + mean, "running_var": rng.random(trial.affine)}
    return {name: array.astype(DTYPES[datatype]) for name, array in inputs.items()}


def fed(trial: Trial, inputs: Arrays, datatype: str) -> Arrays:
    """The inputs as the graph takes them that serves this datatype."""
    name, computed_in = trial.graphs[datatype].split(".")
    size = inputs["x"].shape[2]
    more = {"eps": np.array(EPS)}
    if computed_in == "FP64" and name != "batch_norm":
        more["average"] = np.full((size, 1), 1 / size)
    return {name: array.astype(DTYPES[computed_in]) for name, array in (inputs | more).items()}


def exact(trial: Trial, inputs: Arrays) -> Array:
    """The definition in numpy's longest float, in two passes."""
    x, weight, bias = (inputs[name].astype(np.longdouble) for name in ("x", "weight", "bias"))
    if trial.running:
        running_mean, variance = (inputs[name].astype(np.longdouble) for name in ("running_mean", "running_var"))
        deviation = x - running_mean
    else:
        deviation = x - x.mean(axis=-1, keepdims=True) if trial.centred else x
        variance = (deviation**2).mean(axis=-1, keepdims=True)
    y: Array = deviation / np.sqrt(variance + np.longdouble(EPS)) * weight + bias
    return y


def float64_error(trials: list[Trial], runs: Mapping[str, Run]) -> Claim:
    """The largest error of torch's kernel and of ours, in each datatype, for values of each mean. runs: by graph."""
    measured: dict[str, dict[str, float]] = {}
    for trial, datatype, mean in itertools.product(trials, DTYPES, MEANS):
        inputs = inputs_of(trial, mean, datatype)
        wanted = exact(trial, inputs)
        by_torch = trial.by_torch({name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
        served = runs[trial.graphs[datatype]](fed(trial, inputs, datatype))["y"].astype(DTYPES[datatype])
        measured[f"{trial.what}, {datatype}, mean {mean:g}"] = {
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


def threads_change_nothing(trials: list[Trial], runs: Mapping[int, Mapping[str, Run]]) -> Claim:
    """``thread_invariant`` over every graph of an operation, its figures added up. runs: by threads, by graph."""
    claims = [
        thread_invariant(
            {threads: graphs[trial.graphs[datatype]] for threads, graphs in runs.items()},
            [fed(trial, inputs_of(trial, mean, datatype), datatype) for mean in MEANS],
            checked="export",
        )
        for trial, datatype in itertools.product(trials, DTYPES)
    ]
    added = {
        figure: sum(claim.measured[figure] for claim in claims)
        for figure in ("batches_compared", "mismatching_batches")
    }
    return claims[0].model_copy(
        update={"holds": all(claim.holds for claim in claims), "measured": claims[0].measured | added}
    )


def op_certificates(graphs: Mapping[str, bytes]) -> Certificates:
    """The certificate of every operation, measured on the graphs of these names."""
    runs = {
        threads: {name: all_outputs(open_graph(graph, threads)) for name, graph in graphs.items()}
        for threads in THREADS
    }
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
