"""The operations' graphs and certificates that ship with the service are what the export writes."""

from pathlib import Path
from typing import Any

import pytest

import export.catalog_command as command
from export.catalog_command import export_operations
from export.errors import ExportError
from export.op_certificates import TRIALS, float64_error, inputs_of
from export.op_graphs import NAMES, op_graph
from service.certificate import all_outputs, open_graph
from service.manifest import CERTIFICATES_FILE, Certificates

GRAPHS = Path(__file__).parents[2] / "service" / "graphs"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_operations(folder)
    return folder


def test_exporting_again_writes_the_graphs_that_ship(fresh: Path) -> None:
    assert {file.name for file in GRAPHS.iterdir()} == {file.name for file in fresh.iterdir()}
    for file in fresh.glob("*.onnx"):
        assert file.read_bytes() == (GRAPHS / file.name).read_bytes(), file.name


def test_exporting_again_makes_the_claims_that_ship(fresh: Path) -> None:
    def claims(folder: Path) -> list[Any]:
        certificates = Certificates.model_validate_json((folder / CERTIFICATES_FILE).read_bytes())
        return [
            (certificate.model_name, claim.claim, claim.holds, claim.how, list(claim.measured))
            for certificate in certificates.root
            for claim in certificate.claims
        ]

    assert claims(fresh) == claims(GRAPHS)
    assert all(holds for _, _, holds, _, _ in claims(GRAPHS))


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_holds_no_weights_and_only_standard_operators(name: str) -> None:
    graph = op_graph(name).graph
    assert not graph.initializer
    assert {node.domain for node in graph.node} == {""}
    kinds = {node.op_type for node in graph.node}
    assert "GroupNormalization" not in kinds  # the runtime's is the naive one
    assert "ReduceMean" not in kinds  # the runtime's adds in an order that depends on where a row lies


def test_group_and_instance_norm_are_layer_normalization_over_a_reshape() -> None:
    kinds = [node.op_type for node in op_graph("group_norm.FP32").graph.node]
    assert kinds.count("LayerNormalization") == 1


def test_an_operation_that_is_off_is_found_out() -> None:
    trials = TRIALS["layer_norm"]
    runs = {name: all_outputs(open_graph((GRAPHS / f"{name}.onnx").read_bytes(), 1)) for name in NAMES}
    assert float64_error(trials, runs).holds
    exact = runs["two_passes.FP64"]
    runs["two_passes.FP64"] = lambda inputs: {"y": exact(inputs)["y"] * (1 + 1e-10)}
    assert not float64_error(trials, runs).holds
    assert inputs_of(trials[0], 1e4, "FP32")["x"].mean() == pytest.approx(1e4, abs=1)


def test_a_claim_that_does_not_hold_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graphs: dict[str, bytes]) -> Certificates:
        certificates = Certificates.model_validate_json((GRAPHS / CERTIFICATES_FILE).read_bytes())
        first = certificates.root[0]
        claims = [first.claims[0].model_copy(update={"holds": False}), *first.claims[1:]]
        return Certificates([first.model_copy(update={"claims": claims}), *certificates.root[1:]])

    monkeypatch.setattr(command, "op_certificates", broken)
    with pytest.raises(ExportError, match="layer_norm: float64_error does not hold"):
        export_operations(tmp_path)
    assert list(tmp_path.iterdir()) == []
