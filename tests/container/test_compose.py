"""docker-compose.yml: what each of its profiles starts, and what its containers may do."""

import json
import re
from pathlib import Path

import pytest

from service.server import LEAST_GRACE_S
from service.settings import Settings
from tests.container.engine import Project

ROOT = Path(__file__).parents[2]
SERVICES = {"normserve", "normserve-gpu", "prometheus", "grafana", "load"}
PROFILES = {
    (): {"normserve"},
    ("observability",): {"normserve", "prometheus", "grafana"},
    ("load",): {"normserve", "load"},
    ("gpu",): {"normserve", "normserve-gpu"},
}


@pytest.fixture
def compose(engine: None, tmp_path: Path) -> Project:
    """Of which nothing is started."""
    return Project(tmp_path, NORMSERVE_API_KEY="key")


@pytest.mark.parametrize("profiles", PROFILES, ids="-".join)
def test_a_profile_is_valid_and_starts_what_it_says(compose: Project, profiles: tuple[str, ...]) -> None:
    chosen = [f"--profile={profile}" for profile in profiles]
    assert set(compose(*chosen, "config", "--services").split()) == PROFILES[profiles]


def test_nothing_can_write_become_another_or_take_the_machine(compose: Project) -> None:
    services = compose.configuration()["services"]
    assert set(services) == SERVICES
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert 0 < service["pids_limit"] <= 1024, name
        assert not service.get("privileged"), name
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or volume["read_only"], name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name


def test_only_the_service_can_be_opened_to_the_network(compose: Project) -> None:
    services = compose.configuration(ADDRESS="0.0.0.0", PORT="80")["services"]  # noqa: S104
    opened = {name for name, each in services.items() for port in each.get("ports", ()) if port["host_ip"] == "0.0.0.0"}  # noqa: S104
    assert opened == {"normserve", "normserve-gpu"}
    assert services["normserve"]["ports"][0]["published"] == "80"


def test_a_container_is_given_longer_to_end_than_the_service_takes(compose: Project) -> None:
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    timeouts = (
        settings["request_timeout_ms"] / 1e3,
        settings["header_timeout_seconds"],
        settings["body_timeout_seconds"],
    )
    takes = settings["drain_seconds"] + max(LEAST_GRACE_S, *timeouts) + 1
    for name in ("normserve", "normserve-gpu"):
        assert int(compose.configuration()["services"][name]["stop_grace_period"].rstrip("s")) > takes


def test_the_gpu_is_asked_for_and_the_image_is_its_own(compose: Project) -> None:
    services = compose.configuration()["services"]
    gpu = services["normserve-gpu"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [
        {"capabilities": ["gpu"], "count": 1, "driver": "nvidia"}
    ]
    assert gpu["build"]["args"]["RUNTIME"] == "gpu"
    assert gpu["environment"]["NORMSERVE_EXECUTION_PROVIDER"] == "cuda"
    assert gpu["image"] != services["normserve"]["image"]


def test_settings_come_from_a_file_and_cannot_move_the_port(compose: Project) -> None:
    compose.file.write_text("NORMSERVE_API_KEY=key\nNORMSERVE_PORT=9\nNORMSERVE_HOST=127.0.0.1\n")
    inside = compose.configuration()["services"]["normserve"]["environment"]
    assert inside == {"NORMSERVE_API_KEY": "key", "NORMSERVE_HOST": "0.0.0.0", "NORMSERVE_PORT": "8000"}  # noqa: S104
    compose.file.unlink()
    assert "NORMSERVE_API_KEY" not in json.dumps(compose.configuration())


def test_what_is_mounted_is_there_and_is_what_the_containers_read(compose: Project) -> None:
    services = compose.configuration()["services"]
    mounted = {
        volume["target"]: Path(volume["source"])
        for name in ("prometheus", "grafana")
        for volume in services[name]["volumes"]
        if volume["type"] == "bind"
    }
    read = [services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]]
    read += re.findall(r"--config\.file=(\S+)", " ".join(services["prometheus"]["command"]))
    read += re.findall(r"path: ([^}\s]+)", (ROOT / "deploy/grafana/provisioning/dashboards/files.yml").read_text())
    assert len(read) == 3
    for path in read:
        (target,) = (target for target in mounted if path.startswith(target))
        assert (mounted[target] / path.removeprefix(target).lstrip("/")).exists(), path
