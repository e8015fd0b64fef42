"""The manifests agree with the service: its settings, its routes, its metrics, and how it ends."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from experiments.results import read_results
from service.server import IN_TRANSIT_S, Server
from service.settings import Settings, read_settings, unknown_variables
from tests.deploy.manifests import ROOT, containers, documents, environment, kserve_pod, of_kind, pod

ARTIFACTS = ROOT / "artifacts"
KSERVES_FOLDER = "/mnt/models"
WAYS = ["kubernetes", "kserve"]
METRIC = r"\bnormserve_\w+"


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """What the service makes of a container's environment; KServe's folder is that of the committed artifacts."""

    def of(way: str) -> Settings:
        for name, value in environment(containers()[way]).items():
            monkeypatch.setenv(name, str(ARTIFACTS) if value == KSERVES_FOLDER else value)
        return read_settings([])

    return of


@pytest.mark.parametrize("way", WAYS)
def test_the_service_knows_every_variable_and_takes_its_value(way: str, settings_of: Callable[[str], Settings]) -> None:
    settings = settings_of(way)
    [port] = containers()[way]["ports"]
    assert settings.port == port["containerPort"]
    assert settings.host == "0.0.0.0"  # noqa: S104  # others than this pod ask
    named = {each["name"] for each in containers()[way]["env"]}
    assert named <= {f"NORMSERVE_{name.upper()}" for name in Settings.model_fields}


def test_the_key_is_of_a_secret_that_need_not_be_there() -> None:
    [key] = [each for each in containers()["kubernetes"]["env"] if each["name"] == "NORMSERVE_API_KEY"]
    assert key["valueFrom"]["secretKeyRef"] == {"name": "normserve", "key": "api-key", "optional": True}


@pytest.mark.parametrize("way", WAYS)
def test_kubernetes_adds_no_setting_that_is_none(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its default it would: for our own Service, variables that refuse to start."""
    monkeypatch.setenv(f"{of_kind('Service')['metadata']['name'].upper()}_SERVICE_HOST", "10.0.0.1")
    assert unknown_variables() == ["NORMSERVE_SERVICE_HOST"]
    assert (pod() if way == "kubernetes" else kserve_pod())["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("way", WAYS)
def test_kubernetes_waits_longer_than_the_service_takes_to_end(
    way: str, settings_of: Callable[[str], Settings]
) -> None:
    settings = settings_of(way)
    in_flight = Server(settings).config.timeout_graceful_shutdown
    grace = (pod() if way == "kubernetes" else kserve_pod())["spec"]["terminationGracePeriodSeconds"]
    assert settings.drain_seconds > 0
    assert grace > settings.drain_seconds + 2 * IN_TRANSIT_S + in_flight
    assert "lifecycle" not in containers()[way]  # a hook that sleeps would only delay the signal


@pytest.mark.parametrize("way", WAYS)
def test_probes_ask_for_what_answers(way: str, serve: Callable[..., object]) -> None:
    probes = {name: each["httpGet"] for name, each in containers()[way].items() if name.endswith("Probe")}
    with serve(api_key="a-key") as address:  # which the kubelet has not
        for probe in probes.values():
            assert httpx.get(address + probe["path"]).status_code == 200
    assert probes["readinessProbe"]["path"] == "/v2/health/ready"
    assert probes["livenessProbe"]["path"] == "/v2/health/live"  # a pod that only drains must not be killed for it


def test_metrics_that_scale_are_among_those_of_the_service(serve: Callable[..., object]) -> None:
    variables = environment(containers()["kubernetes"])
    without_key = variables["NORMSERVE_METRICS_WITHOUT_KEY"] == "true"
    [scraped] = of_kind("ServiceMonitor")["spec"]["endpoints"]
    with serve(api_key="a-key", metrics_without_key=without_key) as address:
        answer = httpx.get(address + scraped["path"])
    there = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE ")}
    [metric] = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    [values] = documents(ROOT / "deploy/kubernetes/autoscaling/prometheus-adapter-values.yaml")
    [rule] = values["rules"]["custom"]
    named = {metric["pods"]["metric"]["name"], *re.findall(METRIC, rule["seriesQuery"]), rule["name"]["as"]}
    assert named == {"normserve_pending_requests"}
    assert named <= there
    labels = set(re.findall(r'(\w+)!=""', rule["seriesQuery"]))
    assert labels == set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    own = set(
        re.findall(r"(\w+)=", next(line for line in answer.text.splitlines() if line.startswith(next(iter(named)))))
    )
    assert not own & labels  # the operator would rename ours


def test_the_autoscaler_aims_where_more_requests_at_once_give_little_more() -> None:
    target = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["target"]["averageValue"]
    found = read_results("http", ROOT / "bench" / "results")
    assert str(found["machine"]["cores"]) == containers()["kubernetes"]["resources"]["limits"]["cpu"]
    rates = {
        int(count): np.median([each["binary"][count]["requests_per_second"] for each in found["connections"]])
        for count in found["connections"][0]["binary"]
    }
    assert 0.75 < rates[int(target)] / max(rates.values()) < 0.97


def test_the_model_of_the_inference_service_answers_at_kserves_path(
    serve: Callable[..., object], tmp_path: Path
) -> None:
    inference, runtime = of_kind("InferenceService"), of_kind("ServingRuntime")
    name, model = inference["metadata"]["name"], inference["spec"]["predictor"]["model"]
    shutil.copytree(ARTIFACTS / name, tmp_path / name)  # what storageUri holds
    with serve(model_repository=tmp_path) as address:
        answer = httpx.get(f"{address}/{model['protocolVersion']}/models/{name}")
    assert (answer.status_code, answer.json()["name"]) == (200, name)
    assert model["runtime"] == runtime["metadata"]["name"]
    [taken] = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {"name": taken["name"], "version": taken["version"]}
    assert [model["protocolVersion"]] == runtime["spec"]["protocolVersions"] == ["v2"]
    assert environment(containers()["kserve"])["NORMSERVE_MODEL_REPOSITORY"] == KSERVES_FOLDER


def test_a_storage_uri_of_the_model_itself_refuses_to_start(tmp_path: Path) -> None:
    """docs/kubernetes.md says so, and that the log says why."""
    name = of_kind("InferenceService")["metadata"]["name"]
    shutil.copytree(ARTIFACTS / name, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="this is one model; the folder of all models is"):
        Settings(model_repository=tmp_path)


def test_a_link_to_a_model_is_not_followed_and_one_to_the_repository_is(
    serve: Callable[..., object], tmp_path: Path
) -> None:
    """What docs/kubernetes.md says of volumes: of ConfigMaps, and of PVCs as KServe has mounted them long ago."""
    name = of_kind("InferenceService")["metadata"]["name"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(ARTIFACTS / name)
    (tmp_path / "models").symlink_to(ARTIFACTS)
    with serve(model_repository=tmp_path / "linked") as address:
        answer = httpx.get(f"{address}/v2/models/{name}/ready")
    assert answer.status_code == 503
    assert "is a link" in answer.json()["error"]
    with serve(model_repository=tmp_path / "models") as address:
        assert httpx.get(f"{address}/v2/models/{name}/ready").status_code == 200
