"""What is committed is what the code here makes of the committed checkpoints, and keeps what it claims."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.catalog import CATALOG, REFERENCE_MODELS
from export.certify import METRIC_TOLERANCE, POOL_ELEMENTS
from export.topics import ALPHABET
from service.artifact import Artifact
from service.certificate import open_session, probe_inputs, runner
from service.manifest import Claim, Manifest

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
MAX_TOTAL_BYTES = 32 * 2**20
GOALS = {"accuracy": lambda value: value >= 0.96, "bits_per_character": lambda value: value < 2.6}

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
    assert len(committed) == 3 * len(CATALOG[name].outputs)
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
def test_the_metric_reaches_its_goal_and_is_the_same_as_served(fresh_export: Any, name: str) -> None:
    committed, fresh = (read(repository, name).manifest.metric for repository in (ARTIFACTS, fresh_export.repository))
    assert committed is not None
    assert fresh is not None
    assert (fresh.name, fresh.torch) == (committed.name, pytest.approx(committed.torch, rel=METRIC_TOLERANCE))
    assert committed.served == pytest.approx(committed.torch, rel=METRIC_TOLERANCE)
    assert GOALS[committed.name](committed.served)


@each_model
def test_the_metric_is_what_the_committed_artifact_scores(name: str) -> None:
    artifact = read(ARTIFACTS, name)
    held_out = CATALOG[name].held_out()  # type: ignore[misc]
    run = runner(open_session(artifact.graph, artifact.weights, 1), artifact.manifest)
    assert artifact.manifest.metric is not None
    metric = artifact.manifest.metric
    scored = held_out.metrics(run(held_out.inputs))[metric.name]
    assert scored == pytest.approx(metric.served, rel=METRIC_TOLERANCE)
    assert artifact.manifest.dataset is not None
    assert artifact.manifest.dataset.sha256 == held_out.sha256


@pytest.mark.parametrize("name", [name for name in REFERENCE_MODELS if not name.startswith("bn-")])
def test_every_claim_holds_without_batch_norm_also_in_training_mode(name: str) -> None:
    claims = claims_of(read(ARTIFACTS, name).manifest)
    assert [name for name, claim in claims.items() if not claim.holds] == []
    assert claims["batch_invariant"].measured["training_mode"]["mismatching_rows"] == 0


@pytest.mark.parametrize("name", ["bn-mlp-digits", "bn-cnn-digits"])
def test_batch_norm_is_invariant_as_served_and_not_in_training_mode(name: str) -> None:
    claims = claims_of(read(ARTIFACTS, name).manifest)
    assert [name for name, claim in claims.items() if not claim.holds] == ["train_eval_identical"]
    assert claims["batch_invariant"].measured["mismatching_rows"] == 0
    assert claims["batch_invariant"].measured["training_mode"]["mismatching_rows"] > 0


@each_model
def test_invariance_was_tried_at_every_position_up_to_the_largest_batch(name: str) -> None:
    manifest = read(ARTIFACTS, name).manifest
    measured = claims_of(manifest)["batch_invariant"].measured
    sizes = measured["batch_sizes"]
    assert max(sizes) == manifest.max_rows
    # Two pools of the probe's shapes and one of held-out rows, of which long ones are fewer: each row of each size in
    # two orders, for each number of threads.
    threads = len(claims_of(manifest)["thread_invariant"].measured["threads"])
    held_out = next(iter(CATALOG[name].held_out().inputs.values()))  # type: ignore[misc]
    longest = POOL_ELEMENTS // held_out[0].size
    of_held_out = sum(size for size in sizes if size <= longest)
    assert of_held_out >= 33  # 1, 2, 3, ... and 32 at the least
    assert measured["rows_compared"] == 2 * threads * (2 * sum(sizes) + of_held_out)


def test_a_language_model_says_which_character_each_id_is() -> None:
    for name in REFERENCE_MODELS:
        manifest = read(ARTIFACTS, name).manifest
        if manifest.inputs[0].datatype == "INT64":
            assert manifest.alphabet == ALPHABET
            assert manifest.inputs[0].maximum == len(ALPHABET) - 1 == manifest.outputs[0].shape[-1] - 1
        else:
            assert manifest.alphabet is None
