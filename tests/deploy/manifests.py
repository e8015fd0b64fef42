"""The manifests of deploy/ as their files have them; what kubectl makes of them is compared with that."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = ("deploy/kubernetes", "deploy/kubernetes/autoscaling", "deploy/kserve")

Manifest = dict[str, Any]


def documents(file: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(file.read_text()))


def kustomization(folder: str) -> Manifest:
    [found] = documents(ROOT / folder / "kustomization.yaml")
    return found


def manifests(folder: str) -> list[Manifest]:
    """In the order in which the kustomization names their files."""
    return [each for name in kustomization(folder)["resources"] for each in documents(ROOT / folder / name)]


def of_kind(kind: str) -> Manifest:
    """The only one."""
    [found] = [each for folder in FOLDERS for each in manifests(folder) if each["kind"] == kind]
    return found


def pod() -> Manifest:
    """The template of the Deployment's pods."""
    return of_kind("Deployment")["spec"]["template"]


def containers() -> dict[str, Manifest]:
    """The container of each way to deploy."""
    [ours], [kserves] = pod()["spec"]["containers"], of_kind("ServingRuntime")["spec"]["containers"]
    return {"kubernetes": ours, "kserve": kserves}


def environment(container: Manifest) -> dict[str, str]:
    """What stands there; what comes from a Secret does not."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def kserve_pod() -> Manifest:
    """What of a pod stands in the ServingRuntime and the InferenceService, as the Pod that KServe makes of it."""
    predictor = of_kind("InferenceService")["spec"]["predictor"]
    of_a_pod = {name: value for name, value in predictor.items() if name not in ("model", "minReplicas")}
    spec = of_a_pod | {"containers": of_kind("ServingRuntime")["spec"]["containers"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}
