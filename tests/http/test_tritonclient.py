"""The real client of the protocol over a real socket."""

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from export.held_out import digits

MODEL = "ln-mlp-digits"


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


def digit_rows(count: int) -> np.ndarray:
    return digits().test_images[:count]


def x_input(array: np.ndarray, *, binary: bool, datatype: str = "FP32", name: str = "x") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert client.get_server_metadata()["name"] == "normserve"
    assert client.get_model_metadata(MODEL) == {
        "name": MODEL,
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
    }
    assert client.get_model_metadata(MODEL, "1") == client.get_model_metadata(MODEL)


def test_config_index_and_statistics(client: triton.InferenceServerClient) -> None:
    assert client.get_model_config(MODEL)["batching"]["enabled"] is True
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in client.get_model_repository_index()
    before = client.get_inference_statistics(MODEL, "1")["model_stats"][0]
    client.infer(MODEL, [x_input(digit_rows(5), binary=True)])
    after = client.get_inference_statistics(MODEL, "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][part]["count"] - before["inference_stats"][part]["count"] == 1
        assert after["inference_stats"][part]["ns"] > before["inference_stats"][part]["ns"]
    assert after["last_inference"] > before["last_inference"]
    fives = [stat for stat in after["batch_stats"] if stat["batch_size"] == 5]
    assert fives[0]["compute_infer"]["count"] >= 1
    assert [stats["name"] for stats in client.get_inference_statistics()["model_stats"]].count(MODEL) == 1


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_json_and_binary_give_the_same_bits(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None
) -> None:
    rows = digit_rows(3)
    expected = client.infer(MODEL, [x_input(rows, binary=True)]).as_numpy("logits")
    outputs = None if binary_out is None else [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    result = client.infer(MODEL, [x_input(rows, binary=binary_in)], outputs=outputs)
    assert result.as_numpy("logits").tobytes() == expected.tobytes()
    assert expected.shape == (3, 10)
    is_json = "data" in result.get_response()["outputs"][0]
    assert is_json == (binary_out is False)


def test_the_trained_model_recognises_the_held_out_digits(client: triton.InferenceServerClient) -> None:
    data = digits()
    for name in ("ln-mlp-digits", "bn-mlp-digits"):
        answers = [
            client.infer(name, [x_input(data.test_images[start : start + 120], binary=True)]).as_numpy("logits")
            for start in (0, 120, 240)
        ]
        accuracy = (np.concatenate(answers).argmax(axis=1) == data.test_labels).mean()
        assert accuracy >= 0.96


def test_versions_and_ids_are_echoed(client: triton.InferenceServerClient) -> None:
    rows = [x_input(digit_rows(1), binary=True)]
    versioned = client.infer(MODEL, rows, model_version="1", request_id="request-7").get_response()
    assert (versioned["id"], versioned["model_version"], versioned["model_name"]) == ("request-7", "1", MODEL)
    assert "id" not in client.infer(MODEL, rows).get_response()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_inflated(client: triton.InferenceServerClient, algorithm: str) -> None:
    rows = [x_input(digit_rows(4), binary=True)]
    plain = client.infer(MODEL, rows).as_numpy("logits")
    packed = client.infer(
        MODEL, rows, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    ).as_numpy("logits")
    assert packed.tobytes() == plain.tobytes()


def test_many_requests_at_once_by_the_async_interface(address: str) -> None:
    with triton.InferenceServerClient(address.removeprefix("http://"), concurrency=8) as client:
        data = digit_rows(32)
        waiting = [client.async_infer(MODEL, [x_input(data[i : i + 1], binary=True)]) for i in range(32)]
        answers = np.concatenate([each.get_result().as_numpy("logits") for each in waiting])
        together = client.infer(MODEL, [x_input(data, binary=True)]).as_numpy("logits")
    assert answers.tobytes() == together.tobytes()


@pytest.mark.parametrize(
    ("model", "version", "name", "datatype", "width", "status", "words"),
    [
        ("nobody", "", "x", "FP32", 64, "404", "there is no model 'nobody'; the models are"),
        (MODEL, "2", "x", "FP32", 64, "404", "has no version '2'; it has 1"),
        (MODEL, "", "image", "FP32", 64, "400", r"the inputs are \['image'\], model ln-mlp-digits takes \['x'\]"),
        (MODEL, "", "x", "FP64", 64, "400", "has datatype 'FP64', model ln-mlp-digits takes FP32"),
        (MODEL, "", "x", "FP32", 63, "400", r"has shape \[2, 63\], model ln-mlp-digits takes \[-1, 64\]"),
    ],
)
def test_errors_reach_the_client_with_status_and_words(
    client: triton.InferenceServerClient,
    model: str,
    version: str,
    name: str,
    datatype: str,
    width: int,
    status: str,
    words: str,
) -> None:
    array = np.zeros((2, width), "f8" if datatype == "FP64" else "f4")
    with pytest.raises(InferenceServerException, match=words) as error:
        client.infer(model, [x_input(array, binary=True, datatype=datatype, name=name)], model_version=version)
    assert error.value.status() == status


def test_an_unknown_output_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"asked for are \['probabilities'\].*has \['logits'\]"):
        client.infer(
            MODEL, [x_input(digit_rows(1), binary=True)], outputs=[triton.InferRequestedOutput("probabilities")]
        )


def test_a_model_that_is_not_there_is_not_ready(client: triton.InferenceServerClient) -> None:
    assert not client.is_model_ready("nobody")
