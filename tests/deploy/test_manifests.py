"""The manifests are what Kubernetes, KServe and Prometheus's operator take, as far as it can be seen without them."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from service.version import VERSION
from tests.deploy.manifests import (
    FOLDERS,
    ROOT,
    Manifest,
    containers,
    documents,
    kserve_pod,
    kustomization,
    manifests,
    of_kind,
    pod,
)

OLDEST = "1.29"
CUSTOM = {"ServiceMonitor", "ServingRuntime", "InferenceService"}
SCHEMA = json.loads((Path(__file__).parent / "custom_resources.json").read_text())
CORE = [each for folder in FOLDERS for each in manifests(folder) if each["kind"] not in CUSTOM]
OURS = {"app.kubernetes.io/name": "normserve"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_makes_of_a_folder_what_its_files_say(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed (Debian's kubernetes-client, which `make test` installs as root)")
    said = subprocess.run(["kubectl", "kustomize", folder], cwd=ROOT, check=True, capture_output=True, text=True)
    assert said.stderr == ""  # newer ones warn of what they will not take any more
    wanted = manifests(folder)
    namespace = kustomization(folder).get("namespace")
    for each in wanted:
        if namespace and each["kind"] != "Namespace":
            each["metadata"]["namespace"] = namespace
    image = f"normserve:{VERSION}"
    text = json.dumps(wanted).replace('"image": "normserve"', f'"image": "{image}"')

    def by_kind(found: list[Manifest]) -> list[Manifest]:
        return sorted(found, key=lambda each: each["kind"])

    assert by_kind(list(yaml.safe_load_all(said.stdout))) == by_kind(json.loads(text))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_leaves_no_file_out(folder: str) -> None:
    there = {file.name for file in (ROOT / folder).glob("*.yaml")}
    assert there - {"kustomization.yaml", "prometheus-adapter-values.yaml"} == set(kustomization(folder)["resources"])


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", CORE, ids=lambda each: each["kind"])
def test_kubernetes_knows_every_field(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    spoilt = copy.deepcopy(of_kind("Deployment"))
    spoilt["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, OLDEST, strict=True)


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_a_custom_resource_has_the_fields_of_its_definition(kind: str) -> None:
    _check(kind, of_kind(kind)["spec"])


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(scrape_timeout="5s")),
        ("ServiceMonitor", lambda spec: spec["endpoints"][0].update(interval="15 s")),
        ("ServingRuntime", lambda spec: spec.update(protocolVersion="v2")),
        ("ServingRuntime", lambda spec: spec["supportedModelFormats"][0].update(version=1)),
        ("InferenceService", lambda spec: spec["predictor"]["model"].pop("modelFormat")),
        ("InferenceService", lambda spec: spec["predictor"].update(storageUri="s3://bucket")),
    ],
)
def test_a_field_that_a_definition_has_not_is_found(kind: str, spoil: Callable[[Manifest], object]) -> None:
    spec = copy.deepcopy(of_kind(kind)["spec"])
    spoil(spec)
    with pytest.raises(jsonschema.ValidationError):
        _check(kind, spec)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field_of_the_pod_that_kserve_makes(version: str) -> None:
    kubernetes_validate.validate(kserve_pod(), version, strict=True)


def test_what_selects_the_pods_finds_them() -> None:
    deployment, labels = of_kind("Deployment")["spec"], pod()["metadata"]["labels"]
    spread = [each["labelSelector"] for each in pod()["spec"]["topologySpreadConstraints"]]
    selectors = [deployment["selector"], of_kind("PodDisruptionBudget")["spec"]["selector"], *spread]
    found = [each["matchLabels"] for each in selectors]
    found += [of_kind("Service")["spec"]["selector"], of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    assert all(each == labels == OURS for each in found)
    monitor, service = of_kind("ServiceMonitor")["spec"], of_kind("Service")
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]


def test_what_is_named_is_there() -> None:
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    deployment = of_kind("Deployment")
    assert target == {name: deployment[name] for name in ("apiVersion", "kind")} | {
        "name": deployment["metadata"]["name"]
    }
    assert "replicas" not in deployment["spec"]  # which would undo what the autoscaler has set
    [port] = containers()["kubernetes"]["ports"]
    [of_service] = of_kind("Service")["spec"]["ports"]
    [of_policy] = of_kind("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    [scraped] = of_kind("ServiceMonitor")["spec"]["endpoints"]
    assert port["name"] == of_service["targetPort"] == of_policy["port"]
    assert scraped["port"] == of_service["name"]
    probes = [containers()["kubernetes"][f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    assert {probe["httpGet"]["port"] for probe in probes} == {port["name"]}


def test_prometheus_gives_up_before_it_asks_again() -> None:
    [scraped] = of_kind("ServiceMonitor")["spec"]["endpoints"]
    interval, timeout = (int(re.fullmatch(r"(\d+)s", scraped[name])[1]) for name in ("interval", "scrapeTimeout"))
    assert timeout < interval  # the operator refuses one that is longer


@pytest.mark.parametrize("way", ["kubernetes", "kserve"])
def test_a_container_may_do_nothing_that_it_need_not(way: str) -> None:
    spec = (pod() if way == "kubernetes" else kserve_pod())["spec"]
    [container] = spec["containers"]
    allowed = spec.get("securityContext", {}) | container["securityContext"]
    assert allowed["runAsNonRoot"] is True
    assert allowed["readOnlyRootFilesystem"] is True
    assert allowed["allowPrivilegeEscalation"] is False
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert allowed["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert of_kind("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("way", ["kubernetes", "kserve"])
def test_the_user_is_the_images(way: str) -> None:
    image = ROOT / "Dockerfile"
    if not image.exists():
        pytest.skip("there is no Dockerfile yet")
    user = re.findall(r"^USER\s+(\d+)(?::\d+)?\s*$", image.read_text(), re.MULTILINE)[-1]
    spec = (pod() if way == "kubernetes" else kserve_pod())["spec"]
    allowed = spec.get("securityContext", {}) | spec["containers"][0]["securityContext"]
    assert str(allowed["runAsUser"]) == user != "0"


@pytest.mark.parametrize("way", ["kubernetes", "kserve"])
def test_a_pod_has_whole_cores_and_no_more_than_it_asks_for(way: str) -> None:
    resources = containers()[way]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"].isdecimal()  # of a fraction the service would make one thread too many


@pytest.mark.parametrize("page", ["docs/kubernetes.md"])
def test_what_a_page_names_of_deploy_is_there(page: str) -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", (ROOT / page).read_text()))
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_images_have_the_version_of_the_service() -> None:
    images = [image for folder in FOLDERS for image in kustomization(folder).get("images", [])]
    assert len(images) == 2
    assert {image["newTag"] for image in images} == {VERSION}


def test_no_secret_is_in_the_repository() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).glob("*.yaml")]
    assert all(each["kind"] != "Secret" for file in files for each in documents(file) if "kind" in each)


def _check(kind: str, spec: Manifest) -> None:
    jsonschema.validate(spec, {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
