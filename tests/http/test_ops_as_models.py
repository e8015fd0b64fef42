"""The operations as OIP models: JSON, binary and tritonclient; statistics on request; what a caller may get wrong."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tritonclient.http as triton

from service.ops import OPERATIONS

DATATYPES = {"f2": "FP16", "f4": "FP32", "f8": "FP64"}


@pytest.fixture
def client(address: str) -> Any:
    with triton.InferenceServerClient(address.removeprefix("http://"), concurrency=4) as client:
        yield client


def sent(arrays: dict[str, np.ndarray], *, binary: bool = True) -> list[triton.InferInput]:
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.str[1:]])
        inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
    return inputs


def infer(
    client: triton.InferenceServerClient,
    name: str,
    arrays: dict[str, np.ndarray],
    outputs: tuple[str, ...] = (),
    *,
    binary: bool = True,
    **parameters: Any,
) -> triton.InferResult:
    wanted = [triton.InferRequestedOutput(output, binary_data=binary) for output in outputs] or None
    return client.infer(name, sent(arrays, binary=binary), outputs=wanted, parameters=parameters)


def drawn(shape: tuple[int, ...], size: int, dtype: str = "f4") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": (rng.standard_normal(shape) + 3).astype(dtype),
        "weight": rng.standard_normal(size).astype(dtype),
        "bias": rng.standard_normal(size).astype(dtype),
    }


@pytest.mark.parametrize("dtype", DATATYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_answers_tritonclient_as_torch_does(client: Any, name: str, dtype: str) -> None:
    arrays = drawn((2, 6, 5), 5 if name in ("layer_norm", "rms_norm") else 6, dtype)
    x, weight, bias = (torch.from_numpy(array).double() for array in arrays.values())
    running = {"running_mean": np.full(6, 0.5, dtype), "running_var": np.full(6, 2, dtype)}
    wanted = {
        "layer_norm": lambda: F.layer_norm(x, (5,), weight, bias),
        "rms_norm": lambda: F.rms_norm(x, (5,), weight, 1e-5) + bias,
        "group_norm": lambda: F.group_norm(x, 3, weight, bias),
        "instance_norm": lambda: F.instance_norm(x, weight=weight, bias=bias),
        "batch_norm": lambda: F.batch_norm(
            x, *(torch.from_numpy(each).double() for each in running.values()), weight, bias
        ),
    }[name]()
    more = {"num_groups": 3} if name == "group_norm" else {}
    result = infer(client, name, arrays | (running if name == "batch_norm" else {}), **more)
    y = result.as_numpy("y")
    assert (y.dtype, y.shape) == (np.dtype(dtype), x.shape)
    ulp = np.spacing(np.abs(wanted.numpy()).max().astype(dtype))
    assert np.abs(y - wanted.numpy()).max() <= (4 if dtype == "f8" else 1) * ulp  # in float64 torch itself is off
    assert [output["name"] for output in result.get_response()["outputs"]] == ["y"]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_json_and_binary_have_the_same_bits(client: Any, dtype: str) -> None:
    arrays = drawn((7, 96), 96, dtype)
    answers = [
        infer(client, "layer_norm", arrays, ("y", "mean", "inv_std"), binary=binary, eps=1e-6)
        for binary in (True, False)
    ]
    for output in ("y", "mean", "inv_std"):
        by_binary, by_json = (answer.as_numpy(output) for answer in answers)
        assert by_binary.tobytes() == by_json.tobytes()


def test_statistics_come_when_they_are_named(client: Any) -> None:
    arrays = drawn((4, 3, 8), 24, "f8")
    arrays |= {name: arrays[name].reshape(3, 8) for name in ("weight", "bias")}
    result = infer(client, "layer_norm", arrays, ("inv_std", "mean", "y"), axis=-2, eps=1e-3)
    x = torch.from_numpy(arrays["x"])
    y, mean, inv_std = torch.native_layer_norm(
        x, (3, 8), *map(torch.from_numpy, (arrays["weight"], arrays["bias"])), 1e-3
    )
    np.testing.assert_allclose(result.as_numpy("y"), y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result.as_numpy("mean"), mean, rtol=1e-12)
    np.testing.assert_allclose(result.as_numpy("inv_std"), inv_std, rtol=1e-12)


def test_training_answers_the_running_statistics_unasked(client: Any) -> None:
    x = drawn((8, 3), 3, "f8")["x"]
    result = infer(client, "batch_norm", {"x": x}, training=True, momentum=1.0)
    np.testing.assert_allclose(result.as_numpy("running_mean"), x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.as_numpy("running_var"), x.var(0, ddof=1), rtol=1e-12)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["y", "running_mean", "running_var"]


def test_a_large_request_has_the_bits_of_its_rows(client: Any) -> None:
    arrays = drawn((1000, 768), 768)
    large = infer(client, "layer_norm", arrays).as_numpy("y")
    some = infer(client, "layer_norm", arrays | {"x": arrays["x"][5:9]}).as_numpy("y")
    assert large[5:9].tobytes() == some.tobytes()


def test_concurrent_requests_of_other_weights_never_mix(address: str) -> None:
    def one(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        x, weight = rng.standard_normal((64, 1200)).astype("f4"), rng.standard_normal(1200).astype("f4")
        with triton.InferenceServerClient(address.removeprefix("http://")) as client:
            y = infer(client, "rms_norm", {"x": x, "weight": weight}, eps=1e-3 * (seed + 1)).as_numpy("y")
        rms = np.sqrt((x.astype("f8") ** 2).mean(-1, keepdims=True) + 1e-3 * (seed + 1))
        return bool(np.abs(y - x / rms * weight).max() < 1e-5)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(one, range(32)))
    stats = httpx.get(f"{address}/v2/models/rms_norm/stats").json()["model_stats"][0]
    assert stats["execution_count"] == stats["inference_count"] >= 32


def test_they_stand_beside_the_models_with_parameters_and_certificate(address: str) -> None:
    def get(path: str) -> Any:
        return httpx.get(address + path).raise_for_status().json()

    assert set(OPERATIONS) <= set(get("/v2/models")["models"])
    index = {entry["name"]: entry for entry in httpx.post(f"{address}/v2/repository/index").json()}
    for name in OPERATIONS:
        assert index[name] == {"name": name, "version": "1", "state": "READY", "reason": ""}
        metadata = get(f"/v2/models/{name}")
        assert [tensor["name"] for tensor in metadata["inputs"]][:3] == ["x", "weight", "bias"]
        assert [tensor["name"] for tensor in metadata["outputs"]][:3] == ["y", "mean", "inv_std"]
        assert metadata["parameters"]["eps"]["default"] == 1e-5
        assert metadata["datatypes"] == ["FP32", "FP64", "FP16"]
        assert metadata == get(f"/v2/models/{name}/versions/1")
        config = get(f"/v2/models/{name}/config")
        assert config["max_batch_size"] == 0
        assert "belong to the request" in config["batching"]["reason"]
        claims = {claim["claim"]: claim for claim in get(f"/v1/models/{name}/certificate")["claims"]}
        assert {claim: (each["holds"], each["checked"]) for claim, each in claims.items()} == {
            "float64_error": (True, "export"),
            "thread_invariant": (True, "start"),
        }
    assert "training" in get("/v2/models/batch_norm")["parameters"]
    assert "parameters" not in get("/v2/models/ln-mlp-digits")


def tensor(name: str = "x", datatype: str = "FP32", shape: Any = (2, 3), data: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(shape),
        "data": [1.0] * int(np.prod(shape)) if data is None else data,
    }


@pytest.mark.parametrize(
    ("name", "inputs", "more", "words"),
    [
        ("layer_norm", [], {}, r"the inputs are \[\], layer_norm takes x, weight, bias, each once, x always"),
        ("layer_norm", [tensor("input")], {}, r"the inputs are \['input'\]"),
        ("layer_norm", [tensor(), tensor()], {}, r"the inputs are \['x', 'x'\]"),
        ("layer_norm", [tensor(), tensor("running_mean", shape=[3])], {}, "layer_norm takes x, weight, bias"),
        ("layer_norm", [tensor(datatype="INT64")], {}, "x has datatype 'INT64', it must be one of FP32, FP64, FP16"),
        ("layer_norm", [tensor(datatype="BF16")], {}, "x has datatype 'BF16', it must be one of"),
        ("layer_norm", [tensor(datatype="FP16")], {}, "x is FP16, which JSON cannot carry exactly: use binary"),
        ("layer_norm", [tensor(), tensor("weight", "FP64", [3])], {}, "weight has datatype FP64, it must be that of x"),
        ("layer_norm", [tensor(shape=[])], {}, r"x has 0 sizes, it must have 1 to 8"),
        ("layer_norm", [tensor(shape=[1] * 9)], {}, "x has 9 sizes, it must have 1 to 8"),
        ("layer_norm", [tensor(shape=[2, 0], data=[])], {}, r"x has shape \[2, 0\], each size must be at least 1"),
        ("layer_norm", [tensor(data=[1.0] * 5)], {}, "x has 5 values, its shape"),
        ("layer_norm", [tensor(), tensor("weight", shape=[2])], {}, r"weight has shape \[2\], it must be \[3\]"),
        ("layer_norm", [tensor()], {"parameters": {"eps": -1}}, "eps is -1.0, it must be positive and finite"),
        ("layer_norm", [tensor()], {"parameters": {"epsilon": 1}}, "layer_norm has no parameter 'epsilon'"),
        ("layer_norm", [tensor()], {"parameters": {"axis": 2}}, "axis is 2, for x of shape"),
        ("layer_norm", [tensor()], {"outputs": [{"name": "z"}]}, r"asked for are \['z'\], model layer_norm has"),
        ("batch_norm", [tensor()], {"outputs": [{"name": "running_mean"}]}, "only with the parameter training: true"),
        ("layer_norm", [tensor()], {"paramters": {"eps": 1}}, "the request has 'paramters' where that means nothing"),
        ("layer_norm", [tensor()], {"eps": 1}, "has 'eps' where that means nothing: .* parameters of the request"),
        ("layer_norm", [tensor() | {"parameters": {"eps": 1}}], {}, "has 'eps' where that means nothing"),
        ("group_norm", [tensor()], {"parameters": {"num_groups": 2}}, "num_groups is 2, it must divide the 3 channels"),
        ("batch_norm", [tensor()], {}, "batch_norm needs running_mean unless training is true"),
        ("instance_norm", [tensor()], {}, r"x has shape \[2, 3\], instance_norm takes \(N, C, ...\)"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_what_is_wrong(
    address: str, name: str, inputs: list[dict[str, Any]], more: dict[str, Any], words: str
) -> None:
    answer = httpx.post(f"{address}/v2/models/{name}/infer", json={"inputs": inputs, **more})
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])


def test_a_large_wrong_request_is_a_400_too(client: Any) -> None:
    x = np.ones((100_000, 2), "f4")
    with pytest.raises(triton.InferenceServerException, match=r"\[400\] weight has shape \[3\], it must be \[2\]"):
        infer(client, "layer_norm", {"x": x, "weight": np.ones(3, "f4")})


def test_a_raw_body_is_refused_for_it_has_no_shape(address: str) -> None:
    answer = httpx.post(
        f"{address}/v2/models/layer_norm/infer", content=bytes(8), headers={"Inference-Header-Content-Length": "0"}
    )
    assert (answer.status_code, "has no shape" in answer.json()["error"]) == (400, True)


def test_parameters_of_the_protocol_are_no_parameters_of_the_operation(address: str) -> None:
    body = {"inputs": [tensor()], "parameters": {"priority": 1, "timeout": 10**7, "nonfinite": "null", "eps": 1}}
    assert httpx.post(f"{address}/v2/models/layer_norm/infer", json=body).status_code == 200
