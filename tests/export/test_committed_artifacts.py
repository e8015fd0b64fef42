"""What is committed is what the code here makes of the committed checkpoints, and keeps what it claims."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.catalog import CATALOG, REFERENCE_MODELS
from service.artifact import Artifact
from service.certificate import open_session, probe_inputs, runner
from service.manifest import Claim, Manifest

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
MAX_TOTAL_BYTES = 32 * 2**20
LEAST_ACCURACY = 0.96

each_model = pytest.mark.parametrize("name", REFERENCE_MODELS)


def read(repository: Path, name: str) -> Artifact:
    return Artifact.read(repository / name / CATALOG[name].version)


def claims_of(manifest: Manifest) -> dict[str, Claim]:
    return {claim.claim: claim for claim in manifest.certificate.claims}


def without_figures(manifest: Manifest) -> dict[str, Any]:
    """What does not depend on the machine; torch's answers to the probe are compared within its tolerance."""
    return manifest.model_dump(exclude={"certificate": True, "versions": True, "metric": True, "probe": {"outputs"}})


def test_every_folder_of_artifacts_is_a_reference_model() -> None:
    assert {folder.name for folder in ARTIFACTS.iterdir()} == set(REFERENCE_MODELS)


def test_all_artifacts_together_are_small() -> None:
    assert sum(file.stat().st_size for file in ARTIFACTS.rglob("*") if file.is_file()) <= MAX_TOTAL_BYTES


@each_model
def test_exporting_again_writes_the_committed_graph(fresh_export: Any, name: str) -> None:
    assert read(fresh_export.repository, name).graph == read(ARTIFACTS, name).graph


@each_model
def test_exporting_again_leaves_the_checkpoint_as_it_is(fresh_export: Any, name: str) -> None:
    assert read(fresh_export.repository, name).weights == read(ARTIFACTS, name).weights


@each_model
def test_exporting_again_gives_the_same_answers_bitwise(fresh_export: Any, name: str) -> None:
    answers = []
    for artifact in (read(ARTIFACTS, name), read(fresh_export.repository, name)):
        run = runner(open_session(artifact.graph, artifact.weights, 1), artifact.manifest)
        batches = [*probe_inputs(artifact.manifest), CATALOG[name].held_out().inputs]  # type: ignore[misc]
        answers.append([array.tobytes() for batch in batches for array in run(batch).values()])
    committed, fresh = answers
    assert len(committed) == 3
    assert committed == fresh


@each_model
def test_exporting_again_writes_the_committed_manifest(fresh_export: Any, name: str) -> None:
    committed, fresh = (read(repository, name).manifest for repository in (ARTIFACTS, fresh_export.repository))
    assert without_figures(fresh) == without_figures(committed)
    probe = committed.probe
    np.testing.assert_allclose(fresh.probe.expected(), probe.expected(), rtol=probe.rtol, atol=probe.atol)
    assert fresh.versions["opset"] == committed.versions["opset"]


@each_model
def test_exporting_again_makes_the_committed_claims(fresh_export: Any, name: str) -> None:
    committed, fresh = (read(repository, name).manifest for repository in (ARTIFACTS, fresh_export.repository))
    assert [(claim.claim, claim.holds, claim.how) for claim in fresh.certificate.claims] == [
        (claim.claim, claim.holds, claim.how) for claim in committed.certificate.claims
    ]
    assert {claim.checked for claim in committed.certificate.claims} == {"export"}


@each_model
def test_the_metric_is_high_and_the_same_as_served(fresh_export: Any, name: str) -> None:
    committed, fresh = (read(repository, name).manifest.metric for repository in (ARTIFACTS, fresh_export.repository))
    assert committed is not None
    assert committed == fresh
    assert committed.name == "accuracy"
    assert committed.torch == committed.served >= LEAST_ACCURACY


@each_model
def test_the_metric_is_what_the_committed_artifact_scores(name: str) -> None:
    artifact = read(ARTIFACTS, name)
    held_out = CATALOG[name].held_out()  # type: ignore[misc]
    run = runner(open_session(artifact.graph, artifact.weights, 1), artifact.manifest)
    assert artifact.manifest.metric is not None
    assert held_out.metrics(run(held_out.inputs))["accuracy"] == artifact.manifest.metric.served
    assert artifact.manifest.dataset is not None
    assert artifact.manifest.dataset.sha256 == held_out.sha256


def test_every_claim_holds_for_layer_norm_also_in_training_mode() -> None:
    claims = claims_of(read(ARTIFACTS, "ln-mlp-digits").manifest)
    assert [name for name, claim in claims.items() if not claim.holds] == []
    assert claims["batch_invariant"].measured["training_mode"]["mismatching_rows"] == 0


def test_batch_norm_is_invariant_as_served_and_not_in_training_mode() -> None:
    claims = claims_of(read(ARTIFACTS, "bn-mlp-digits").manifest)
    assert [name for name, claim in claims.items() if not claim.holds] == ["train_eval_identical"]
    assert claims["batch_invariant"].measured["mismatching_rows"] == 0
    assert claims["batch_invariant"].measured["training_mode"]["mismatching_rows"] > 0


@each_model
def test_invariance_was_tried_at_every_position_up_to_the_largest_batch(name: str) -> None:
    manifest = read(ARTIFACTS, name).manifest
    measured = claims_of(manifest)["batch_invariant"].measured
    assert max(measured["batch_sizes"]) == manifest.max_rows
    # Three pools (two probe shapes, held-out rows), each row of each size in two orders, for each number of threads.
    threads = len(claims_of(manifest)["thread_invariant"].measured["threads"])
    assert measured["rows_compared"] == 3 * 2 * threads * sum(measured["batch_sizes"])
