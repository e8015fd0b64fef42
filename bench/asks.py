"""Requests of every kind that the service answers: all models and operations, many shapes, every format, and errors."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.oip import BINARY, HEADER_LENGTH, JSON, encoded
from service.certificate import samples
from service.manifest import Manifest
from service.ops import OPERATIONS
from service.protocol import Arrays

REPOSITORY = Path("artifacts")
SMALL = (3, 16)  # rows and length of the largest shape, for trials that are not about computing
MOST_JSON_NUMBERS = 2**15  # of an answer: as JSON more would take longer to write than to compute


@dataclass(frozen=True)
class Ask:
    """One request, and the status it must be answered with."""

    what: str
    path: str
    body: bytes
    headers: dict[str, str]
    status: int = 200


def manifests(repository: Path = REPOSITORY) -> list[Manifest]:
    """Of every model in a folder."""
    return [Manifest.load(file.parent) for file in sorted(repository.glob("*/*/manifest.json"))]


def mixed(shapes: int, most: tuple[int, int] = SMALL) -> list[Ask]:
    """So many shapes of each model and operation, each in another format, and one of every error; always the same.

    most: rows and length of the largest that may be drawn.
    """
    rng = np.random.default_rng(0)
    asks = [ask for manifest in manifests() for ask in _of_model(manifest, shapes, most, rng)]
    return [*asks, *_of_operations(shapes, most, rng), *errors()]


def errors() -> list[Ask]:
    """Requests that are refused, each in another place."""
    infer, plain = "/v2/models/ln-mlp-digits/infer", {"Content-Type": "application/json"}
    row = np.zeros((1, 64), "f4")
    body, headers = encoded({"x": row}, BINARY, {})
    many, many_headers = encoded({"x": np.zeros((257, 64), "f4")}, BINARY, {})
    short = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [1.5] * 63}]}).encode()
    return [
        Ask("error: no JSON", infer, b"{", plain, 400),
        Ask("error: NaN", infer, short.replace(b"1.5", b"NaN"), plain, 400),
        Ask("error: a number too few", infer, short, plain, 400),
        Ask("error: a byte too few", infer, body[:-1], headers, 400),
        Ask("error: no header length", infer, body, {"Content-Type": "application/octet-stream"}, 400),
        Ask("error: no such model", "/v2/models/nobody/infer", body, headers, 404),
        Ask("error: no such version", "/v2/models/ln-mlp-digits/versions/7/infer", body, headers, 404),
        Ask("error: too many rows", infer, many, many_headers, 413),
        Ask("error: an encoding", infer, body, headers | {"Content-Encoding": "br"}, 415),
        Ask("error: no such parameter", "/v1/ops/layer_norm", b'{"x": [1, 2], "epsilon": 1}', plain, 400),
        Ask("error: no such operation", "/v1/ops/layer", b'{"x": [1, 2]}', plain, 404),
    ]


def _of_model(manifest: Manifest, shapes: int, most: tuple[int, int], rng: np.random.Generator) -> Iterator[Ask]:
    path, first = f"/v2/models/{manifest.name}/infer", manifest.inputs[0]
    for number in range(shapes):
        shape = [int(rng.integers(most[axis])) + 1 if size == -1 else size for axis, size in enumerate(first.shape)]
        arrays = samples(manifest, shape, rng)
        if number % 2:  # the state of a recurrent model
            arrays = {tensor.name: arrays[tensor.name] for tensor in manifest.inputs if not tensor.optional}
        yield _formatted(f"{manifest.name} {shape}", path, arrays, number, _answers(manifest, shape))


def _answers(manifest: Manifest, shape: list[int]) -> int:
    """About how many numbers a request of this shape is answered with."""
    return int(np.prod([size for size in manifest.outputs[0].shape if size != -1]) * np.prod(shape[:2]))


def _of_operations(shapes: int, most: tuple[int, int], rng: np.random.Generator) -> Iterator[Ask]:
    for operation in OPERATIONS:
        for number in range(shapes):
            rows, size = int(rng.integers(1, most[0] + 1)), 2 * int(rng.integers(1, 2 * most[1] + 1))
            arrays: Arrays = {
                "x": rng.standard_normal((rows, size)).astype("f4") + 100,
                "weight": rng.standard_normal(size).astype("f4"),
                "bias": rng.standard_normal(size).astype("f4"),
            }
            parameters: dict[str, bool | int] = {}
            if operation in ("group_norm", "instance_norm"):
                arrays["x"] = np.repeat(arrays["x"][..., None], 3, axis=2) * np.arange(3, dtype="f4")
                if operation == "group_norm":
                    parameters["num_groups"] = 2
            arrays = {name: array for name, array in arrays.items() if name in OPERATIONS[operation].inputs}
            if operation == "batch_norm":
                parameters["training"] = True
                arrays["x"] = np.concatenate([arrays["x"], -arrays["x"]])  # of one row there is no variance
            what = f"{operation} {list(arrays['x'].shape)}"
            yield _formatted(what, f"/v2/models/{operation}/infer", arrays, number, arrays["x"].size, parameters)
            if number == 0:
                fields = {name: array.tolist() for name, array in arrays.items()}
                text = json.dumps(fields | parameters).encode()
                yield Ask(f"{what} as /v1/ops", f"/v1/ops/{operation}", text, {"Content-Type": "application/json"})


def _formatted(
    what: str, path: str, arrays: Arrays, number: int, answers: int, parameters: dict[str, bool | int] | None = None
) -> Ask:
    """Binary, flat and nested JSON, gzip, and where it may be raw, by turns; what is large as binary."""
    form = number % 5 if answers <= MOST_JSON_NUMBERS else 0
    if form in (1, 2):
        body, headers = encoded(arrays, JSON, parameters or {}, nested=form == 2)
        return Ask(f"{what}, {'nested' if form == 2 else 'flat'} JSON", path, body, headers)
    body, headers = encoded(arrays, BINARY, parameters or {})
    if form == 3:
        return Ask(f"{what}, gzip", path, gzip.compress(body, 1), headers | {"Content-Encoding": "gzip"})
    one = next(iter(arrays.values()))
    if form == 4 and len(arrays) == 1 and not parameters and len(one) == 1:
        return Ask(f"{what}, raw", path, one.tobytes(), headers | {HEADER_LENGTH: "0"})
    return Ask(f"{what}, binary", path, body, headers)
