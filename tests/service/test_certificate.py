from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service import certificate
from service.artifact import Artifact
from service.manifest import ArtifactError, Certificate, Claim, InputTensor, Manifest, Probe, RecordedTensor
from service.protocol import Arrays

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
ManifestOf = Callable[..., Manifest]


def doubled(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2}


def centred_on_its_batch(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] - inputs["x"].mean(axis=0)}


def with_probe(manifest: Manifest, run: certificate.Run) -> Manifest:
    """The manifest as export would write it for this model."""
    outputs = Probe.pack([run(inputs) for inputs in certificate.probe_inputs(manifest)])
    return manifest.model_copy(update={"probe": manifest.probe.model_copy(update={"outputs": outputs})})


def holds(here: Certificate) -> dict[str, bool]:
    return {claim.claim: claim.holds for claim in here.claims}


def test_a_model_that_treats_rows_alike_keeps_every_claim(manifest_of: ManifestOf) -> None:
    manifest = with_probe(manifest_of(), doubled)
    here = certificate.recheck(manifest, {1: doubled, 2: doubled})
    assert holds(here) == {"torch_onnx_parity": True, "batch_invariant": True, "thread_invariant": True}
    assert all(claim.checked == "start" for claim in here.claims)
    sizes = {claim.claim: claim.measured for claim in here.claims}["batch_invariant"]["batch_sizes"]
    assert sizes == [1, 2, 8]  # one, two and max_rows


def test_a_model_that_looks_at_its_neighbours_is_found_out(manifest_of: ManifestOf) -> None:
    manifest = with_probe(manifest_of(), centred_on_its_batch)
    here = certificate.recheck(manifest, {1: centred_on_its_batch, 2: centred_on_its_batch})
    assert holds(here) == {"torch_onnx_parity": True, "batch_invariant": False, "thread_invariant": True}


def test_one_last_bit_in_one_row_of_the_largest_batch_is_found_out(manifest_of: ManifestOf) -> None:
    def run(inputs: Arrays) -> Arrays:
        y = inputs["x"] * 2
        if len(y) == 8:
            y[4, 1] = np.nextafter(y[4, 1], np.float32(np.inf))
        return {"y": y}

    here = certificate.recheck(with_probe(manifest_of(), run), {1: run, 2: run})
    assert holds(here)["batch_invariant"] is False


def test_recorded_inputs_are_what_is_measured(manifest_of: ManifestOf) -> None:
    seen = []

    def run(inputs: Arrays) -> Arrays:
        seen.append(inputs["x"])
        return doubled(inputs)

    x = np.arange(9, dtype="f4").reshape(3, 3)
    probe = Probe(
        seed=1,
        shapes=[[3, 3]],
        inputs=[{"x": RecordedTensor.of(x)}],
        outputs=Probe.pack([{"y": x * 2}]),
        atol=0,
        rtol=0,
    )
    here = certificate.recheck(manifest_of(probe=probe.model_dump()), {1: run, 2: run})
    assert holds(here) == {"torch_onnx_parity": True, "batch_invariant": True, "thread_invariant": True}
    assert {tuple(row) for batch in seen for row in batch} == {tuple(row) for row in x}
    assert max(map(len, seen)) == 8  # max_rows, of three rows over and over


def test_a_row_whose_bits_depend_on_where_it_lies_in_memory_is_found_out(manifest_of: ManifestOf) -> None:
    def run(inputs: Arrays) -> Arrays:
        shifted = inputs["x"].ctypes.data % 64 == 4
        return {"y": np.nextafter(inputs["x"], np.float32(np.inf)) if shifted else inputs["x"]}

    here = certificate.recheck(with_probe(manifest_of(), run), {1: run, 2: run})
    assert holds(here)["batch_invariant"] is False


def test_a_thread_count_that_changes_a_bit_is_found_out(manifest_of: ManifestOf) -> None:
    def other(inputs: Arrays) -> Arrays:
        return {"y": np.nextafter(inputs["x"] * 2, np.float32(np.inf))}

    here = certificate.recheck(with_probe(manifest_of(), doubled), {1: doubled, 2: other})
    assert holds(here)["thread_invariant"] is False
    assert holds(here)["torch_onnx_parity"] is True


def test_a_thread_count_that_changes_a_bit_of_a_row_alone_only_is_found_out(manifest_of: ManifestOf) -> None:
    def other(inputs: Arrays) -> Arrays:
        return centred_on_its_batch(inputs) if len(inputs["x"]) == 1 else doubled(inputs)

    here = certificate.recheck(with_probe(manifest_of(), doubled), {1: doubled, 2: other})
    assert holds(here)["thread_invariant"] is False


def test_every_claim_says_what_it_was_measured_on(manifest_of: ManifestOf) -> None:
    exported = [
        Claim(claim=name, holds=True, measured={}, how="by torch", checked="export")
        for name in ("train_eval_identical", "metric_preserved", "thread_invariant")
    ]
    manifest = with_probe(
        manifest_of(certificate={"model_name": "m", "model_version": "1", "claims": exported}), doubled
    )

    def said(**changes: str) -> dict[str, str]:
        here = certificate.recheck(manifest, {1: doubled, 2: doubled}, **changes)
        return {claim.claim: claim.how for claim in here.claims}

    assert said()["metric_preserved"] == "by torch"
    assert said()["thread_invariant"].endswith("; on cpu, fp32")
    elsewhere = said(measured_on="openvino, bf16")
    assert elsewhere["thread_invariant"].endswith("; on openvino, bf16")
    assert elsewhere["metric_preserved"] == "by torch; on cpu, fp32, not measured on openvino, bf16"
    assert elsewhere["train_eval_identical"] == "by torch"


def test_an_optional_input_that_is_left_out_is_zeros_of_the_first_ones_rows(manifest_of: ManifestOf) -> None:
    tensor = {"datatype": "FP32", "shape": [-1, 3]}
    state = {"name": "h", "datatype": "FP64", "shape": [-1, 2], "optional": True}
    manifest = manifest_of(inputs=[{"name": "x", **tensor}, {"name": "g", **tensor, "optional": True}, state])
    x, g, h = np.ones((4, 3), "f4"), np.ones((4, 3), "f4"), np.zeros((4, 2))
    completed = certificate.complete({"x": x, "g": g}, manifest)
    assert list(completed) == ["x", "g", "h"]
    assert completed["x"] is x
    assert completed["g"] is g
    assert (completed["h"].dtype, completed["h"].tobytes()) == (h.dtype, h.tobytes())
    assert not certificate.complete({"x": x, "h": h}, manifest)["g"].any()


def test_every_input_is_sampled_and_only_the_first_has_the_mean(manifest_of: ManifestOf) -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "h", "datatype": "FP32", "shape": [-1, 2], "optional": True},
    ]
    drawn = certificate.samples(manifest_of(inputs=inputs), (64, 9), np.random.default_rng(0), mean=1e3)
    assert {name: array.shape for name, array in drawn.items()} == {"x": (64, 9), "h": (64, 2)}
    assert drawn["x"].mean() == pytest.approx(1e3, abs=1)
    assert abs(drawn["h"].mean()) < 1
    assert drawn["h"].any()


@pytest.mark.parametrize(("error", "parity"), [(0.9e-5, True), (3e-5, False), (np.nan, False)])
def test_parity_is_judged_by_the_manifests_tolerance(manifest_of: ManifestOf, error: float, parity: bool) -> None:
    zero = manifest_of()
    manifest = with_probe(zero, lambda inputs: {"y": np.zeros_like(inputs["x"])})
    claim = certificate.torch_onnx_parity(lambda inputs: {"y": np.full_like(inputs["x"], error)}, manifest)
    assert claim.holds is parity


def test_a_probe_of_another_size_is_an_error_of_the_artifact(manifest_of: ManifestOf) -> None:
    with pytest.raises(ArtifactError, match="the probe gives 6 numbers, the manifest holds 0"):
        certificate.torch_onnx_parity(doubled, manifest_of())


def test_a_model_without_a_batch_axis_makes_no_claim_of_batches(manifest_of: ManifestOf) -> None:
    manifest = with_probe(manifest_of(batch_axis=None), centred_on_its_batch)
    here = certificate.recheck(manifest, {1: centred_on_its_batch, 2: centred_on_its_batch})
    assert holds(here) == {"torch_onnx_parity": True, "thread_invariant": True}


def test_figures_that_only_torch_can_give_stay_as_exported(manifest_of: ManifestOf) -> None:
    exported = Claim(
        claim="batch_invariant",
        holds=True,
        measured={"rows_compared": 999, "training_mode": {"mismatching_rows": 8}},
        how="",
        checked="export",
    )
    manifest = with_probe(
        manifest_of(certificate={"model_name": "m", "model_version": "1", "claims": [exported]}), doubled
    )
    claim = next(
        claim
        for claim in certificate.recheck(manifest, {1: doubled, 2: doubled}).claims
        if claim.claim == "batch_invariant"
    )
    assert claim.measured["training_mode"] == {"mismatching_rows": 8}
    assert claim.measured["rows_compared"] != 999
    assert claim.how.endswith("training_mode: as measured at export")


def test_what_failed_at_export_stays_failed_though_the_shorter_check_here_passes(manifest_of: ManifestOf) -> None:
    exported = Claim(
        claim="batch_invariant", holds=False, measured={"mismatching_rows": 9}, how="at export", checked="export"
    )
    certified = {"model_name": "m", "model_version": "1", "claims": [exported]}
    here = certificate.recheck(with_probe(manifest_of(certificate=certified), doubled), {1: doubled, 2: doubled})
    assert next(claim for claim in here.claims if claim.claim == "batch_invariant") == exported


def test_only_what_held_at_export_can_be_broken() -> None:
    def of(**claims: bool) -> Certificate:
        made = [Claim(claim=name, holds=held, measured={}, how="", checked="export") for name, held in claims.items()]
        return Certificate(model_name="m", model_version="1", claims=made)

    broken = certificate.broken_claims(of(a=True, b=False, c=True), of(a=False, b=False, c=True, d=False))
    assert [claim.claim for claim in broken] == ["a"]


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ({"datatype": "INT64", "minimum": 3, "maximum": 5}, {3, 4, 5}),
        ({"datatype": "UINT8"}, {0, 1}),
        ({"datatype": "BOOL"}, {False, True}),
    ],
)
def test_samples_keep_to_what_the_input_may_hold(declared: dict[str, object], values: set[object]) -> None:
    tensor = InputTensor.model_validate({"name": "x", "shape": [-1], **declared})
    assert set(certificate.sample(tensor, (500,), np.random.default_rng(0)).tolist()) == values


def test_real_samples_have_the_mean_and_keep_the_bounds() -> None:
    free = InputTensor(name="x", datatype="FP32", shape=[-1])
    rng = np.random.default_rng(0)
    assert abs(certificate.sample(free, (5000,), rng, mean=1e3).mean() - 1e3) < 0.1
    bounded = free.model_copy(update={"minimum": 0.0, "maximum": 1.0})
    array = certificate.sample(bounded, (5000,), rng, mean=1e3)
    assert array.dtype == np.float32
    assert (array.min(), array.max()) == (1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "ulp"),
    [
        ([1.0], [np.nextafter(np.float32(1), np.float32(2))], 1),
        ([0.0], [-0.0], 0),
        ([np.nextafter(np.float32(0), np.float32(1))], [np.nextafter(np.float32(0), np.float32(-1))], 2),
        ([1.0, 1.0], [1.0, 2.0], 2**23),
        ([], [], 0),
    ],
)
def test_units_in_the_last_place(ours: list[float], theirs: list[float], ulp: int) -> None:
    assert certificate.max_difference(np.array(ours, "f4"), np.array(theirs, "f4"))["max_ulp"] == ulp


def test_the_runtime_reads_no_file_whatever_lies_beside_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    (tmp_path / "model.safetensors").write_bytes(artifact.weights)
    (tmp_path / "other_weights.bin").write_bytes(artifact.weights)
    monkeypatch.chdir(tmp_path)
    elsewhere = artifact.graph.replace(b"model.safetensors", b"other_weights.bin")
    assert elsewhere != artifact.graph
    with pytest.raises(ArtifactError, match="refers to data outside model.safetensors"):
        certificate.open_session(elsewhere, artifact.weights, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datatype": "FP64"}, r"in the graph logits is tensor\(float\) .*, in the manifest FP64 \[-1, 10\]"),
        ({"shape": [-1, 3]}, r"in the graph logits is .*10\], in the manifest FP32 \[-1, 3\]"),
        ({"shape": [-1, 10, 1]}, r"in the manifest FP32 \[-1, 10, 1\]"),
    ],
)
def test_a_manifest_that_promises_other_datatypes_or_sizes_than_the_graph_is_refused(
    changes: dict[str, object], words: str
) -> None:
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    session = certificate.open_session(artifact.graph, artifact.weights, 1)
    output = artifact.manifest.outputs[0].model_copy(update=changes)
    with pytest.raises(ArtifactError, match=words):
        certificate.runner(session, artifact.manifest.model_copy(update={"outputs": [output]}))


def test_parity_is_that_of_the_session_that_serves(manifest_of: ManifestOf) -> None:
    def other(inputs: Arrays) -> Arrays:
        return {"y": inputs["x"] * 2 + 1}

    manifest = with_probe(manifest_of(), doubled)
    assert holds(certificate.recheck(manifest, {1: doubled, 2: other}, 1))["torch_onnx_parity"] is True
    assert holds(certificate.recheck(manifest, {1: doubled, 2: other}, 2))["torch_onnx_parity"] is False


def test_numbers_that_are_not_finite_are_counted() -> None:
    ours = np.array([1, np.nan, np.inf, 2], "f4")
    assert certificate.max_difference(ours, np.array([1, 2, 3, 4], "f4")) == {
        "max_abs": 2.0,
        "max_ulp": 2**23,
        "nonfinite": 2,
    }


def test_a_graph_of_other_names_than_the_manifests_is_refused() -> None:
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    session = certificate.open_session(artifact.graph, artifact.weights, 1)
    renamed = artifact.manifest.outputs[0].model_copy(update={"name": "scores"})
    with pytest.raises(ArtifactError, match=r"the graph's outputs are \['logits'\], the manifest's are \['scores'\]"):
        certificate.runner(session, artifact.manifest.model_copy(update={"outputs": [renamed]}))
