import json
import struct
from typing import Any

import httpx
import pytest

from service.openapi import DIGIT
from service.protocol import HEADER_LENGTH

MODEL = "ln-mlp-digits"


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_both_spellings_of_the_root_answer_directly(address: str, path: str) -> None:
    answer = httpx.get(address + path)
    assert answer.status_code == 200
    assert answer.json()["name"] == "normserve"
    assert "binary_tensor_data" in answer.json()["extensions"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/models", "/metrics"])
def test_head_answers_as_get_does_without_the_body(address: str, path: str) -> None:
    answer = httpx.head(address + path)
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0


def test_live_and_ready(address: str) -> None:
    assert httpx.get(f"{address}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{address}/v2/health/ready").json() == {"ready": True}


def test_models_are_listed(address: str) -> None:
    assert {"ln-mlp-digits", "bn-mlp-digits"} <= set(httpx.get(f"{address}/v2/models").json()["models"])


@pytest.mark.parametrize(
    "path", ["/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/config", "/v1/models/{}/certificate"]
)
def test_a_version_may_be_named_or_not(address: str, path: str) -> None:
    plain = httpx.get(address + path.format(MODEL))
    versioned = httpx.get(address + path.format(f"{MODEL}/versions/1"))
    assert plain.status_code == versioned.status_code == 200
    assert plain.json() == versioned.json()
    assert httpx.get(address + path.format(f"{MODEL}/versions/9")).status_code == 404


def test_statistics_of_one_version_and_of_all(address: str) -> None:
    one = httpx.get(f"{address}/v2/models/{MODEL}/versions/1/stats").json()["model_stats"]
    assert [(stats["name"], stats["version"]) for stats in one] == [(MODEL, "1")]
    everything = httpx.get(f"{address}/v2/models/stats").json()["model_stats"]
    assert {stats["name"] for stats in everything} == set(httpx.get(f"{address}/v2/models").json()["models"])
    assert httpx.get(f"{address}/v2/models/nobody/stats").status_code == 404


def test_infer_answers_on_both_paths_with_the_same_body(address: str) -> None:
    body = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]}
    plain = httpx.post(f"{address}/v2/models/{MODEL}/infer", json=body)
    versioned = httpx.post(f"{address}/v2/models/{MODEL}/versions/1/infer", json=body)
    assert plain.content == versioned.content
    answer = plain.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", MODEL, "1")
    logits = answer["outputs"][0]["data"]
    assert logits.index(max(logits)) == 3  # the example is a three
    assert plain.headers["content-type"] == "application/json"
    assert HEADER_LENGTH not in plain.headers


def test_a_raw_body_is_answered_in_binary_with_the_bits_of_json(address: str) -> None:
    url = f"{address}/v2/models/{MODEL}/infer"
    raw = httpx.post(url, content=struct.pack("<64f", *DIGIT), headers={HEADER_LENGTH: "0"})
    length = int(raw.headers[HEADER_LENGTH])
    header = json.loads(raw.content[:length])
    assert raw.headers["content-type"] == "application/octet-stream"
    assert header["outputs"] == [
        {"name": "logits", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": 40}}
    ]
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [DIGIT]}]}
    as_json = httpx.post(url, json=body).json()["outputs"][0]["data"]
    assert struct.pack("<10f", *as_json) == raw.content[length:]


@pytest.mark.parametrize(("value", "status"), [(float("inf"), 400), (float("nan"), 400)])
def test_an_answer_that_is_not_finite_is_refused_in_json_and_exact_in_binary(
    address: str, value: float, status: int
) -> None:
    url = f"{address}/v2/models/bn-mlp-digits/infer"
    header = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": 256}}]}

    def post(**parameters: Any) -> httpx.Response:
        text = json.dumps(header | {"parameters": parameters}).encode()
        tensor = struct.pack("<64f", *[value] * 64)
        return httpx.post(url, content=text + tensor, headers={HEADER_LENGTH: str(len(text))})

    refused = post()
    assert refused.status_code == status
    assert "output logits has a value that is not finite" in refused.json()["error"]
    assert None in post(nonfinite="null").json()["outputs"][0]["data"]
    exact = post(binary_data_output=True)
    logits = struct.unpack("<10f", exact.content[int(exact.headers[HEADER_LENGTH]) :])
    assert any(logit != logit or abs(logit) == float("inf") for logit in logits)


def test_the_index_lists_every_model_or_only_those_that_serve(address: str) -> None:
    everything = httpx.post(f"{address}/v2/repository/index").json()
    ready = httpx.post(f"{address}/v2/repository/index", json={"ready": True}).json()
    assert everything == ready
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in ready


def test_the_certificate_says_what_holds_and_what_does_not(address: str) -> None:
    def claims(model: str) -> dict[str, Any]:
        certificate = httpx.get(f"{address}/v1/models/{model}/certificate").json()
        assert (certificate["model_name"], certificate["model_version"]) == (model, "1")
        return {claim["claim"]: claim for claim in certificate["claims"]}

    layer, batch = claims("ln-mlp-digits"), claims("bn-mlp-digits")
    assert list(layer) == list(batch)
    assert all(claim["holds"] for claim in layer.values())
    assert [name for name, claim in batch.items() if not claim["holds"]] == ["train_eval_identical"]
    assert batch["train_eval_identical"]["measured"]["max_abs"] > 0
    assert batch["batch_invariant"]["measured"]["training_mode"]["mismatching_rows"] > 0
    for claims_here in (layer, batch):
        checked = {name: claim["checked"] for name, claim in claims_here.items()}
        assert checked == {
            "train_eval_identical": "export",
            "torch_onnx_parity": "start",
            "float64_error": "export",
            "batch_invariant": "start",
            "thread_invariant": "start",
            "metric_preserved": "export",
        }


def test_metrics_are_there_for_prometheus(address: str) -> None:
    httpx.post(
        f"{address}/v2/models/{MODEL}/infer",
        json={"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": DIGIT}]},
    )
    answer = httpx.get(f"{address}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "requests_total",
        "rows_total",
        "batches_total",
        "batch_rows_bucket",
        "queue_seconds_bucket",
        "compute_seconds_bucket",
        "codec_seconds_bucket",
        "request_seconds_bucket",
        "pending_requests",
        "model_ready",
    ):
        assert f"normserve_{name}{{" in answer.text
    assert f'normserve_model_ready{{model="{MODEL}",version="1"}} 1.0' in answer.text


def test_names_that_clients_make_up_never_become_a_label(address: str) -> None:
    httpx.post(f"{address}/v2/models/made-up-by-a-client/infer", json={})
    assert "made-up-by-a-client" not in httpx.get(f"{address}/metrics").text


def test_the_documentation_needs_no_other_server(address: str) -> None:
    page = httpx.get(f"{address}/docs")
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page.text
        assert httpx.get(f"{address}/static-offline-docs/{asset}").status_code == 200


def test_the_openapi_documents_infer_and_knows_no_422(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    assert {"/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"} <= set(document["paths"])
    assert "422" not in json.dumps(document)
    assert "HTTPValidationError" not in json.dumps(document)
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    assert {"200", "400", "404", "408", "413", "415", "429", "431", "500", "503", "504"} == set(infer["responses"])


def test_the_openapi_example_runs(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    operation = document["paths"]["/v2/models/{name}/versions/{version}/infer"]["post"]
    path = "/v2/models/{name}/versions/{version}/infer".format(
        **{each["name"]: each["example"] for each in operation["parameters"] if each["in"] == "path"}
    )
    answer = httpx.post(address + path, json=operation["requestBody"]["content"]["application/json"]["example"])
    assert answer.status_code == 200
