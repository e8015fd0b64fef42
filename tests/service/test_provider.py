"""Which settings a machine can have, and what OpenVINO is told."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from export.held_out import digits
from service import certificate
from service.artifact import Artifact
from service.certificate import MEASURED_AT_EXPORT, Run, runner
from service.manifest import ArtifactError, Claim, Manifest, Probe
from service.protocol import Arrays
from service.provider import (
    BF16_FLAGS,
    BF16_TOLERANCE,
    CPU,
    Provider,
    openvino_config,
    openvino_device,
    processor_flags,
    provider_of,
)
from service.settings import SettingError, Settings

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts"
BF16_HERE = not BF16_FLAGS.isdisjoint(processor_flags())


def settings(**changes: Any) -> Settings:
    return Settings(model_repository=ARTIFACTS, **changes)


@pytest.fixture(scope="module")
def openvino_bf16(openvino: Provider) -> Provider:
    """As on a processor that has bf16; OpenVINO emulates it on others that have AVX-512."""
    return provider_of(settings(execution_provider="openvino", precision="bf16"), {"amx_bf16"})


def opened(artifact: Artifact, provider: Provider, threads: int) -> Run:
    session = certificate.open_session(artifact.graph, artifact.weights, threads, provider.session_options)
    return runner(session, artifact.manifest)


def measured(name: str, provider: Provider) -> dict[str, Claim]:
    artifact = Artifact.read(ARTIFACTS / name / "1")
    runs = {threads: opened(artifact, provider, threads) for threads in (1, 2)}
    here = certificate.recheck(artifact.manifest, runs, measured_on=str(provider), tolerance=provider.tolerance)
    return {claim.claim: claim for claim in here.claims}


def outputs(run: Run, manifest: Manifest) -> list[bytes]:
    return [array.tobytes() for inputs in certificate.probe_inputs(manifest) for array in run(inputs).values()]


# ---- what is refused, and in which words -----------------------------------------------------------------------------


def test_cpu_at_fp32_is_the_default_and_what_an_export_is_measured_on() -> None:
    assert provider_of(settings()) is CPU
    assert str(CPU) == MEASURED_AT_EXPORT
    assert (CPU.tolerance, CPU.certificate) == (None, "enforce")


def test_bf16_on_cpu_is_refused_and_says_who_has_it() -> None:
    with pytest.raises(SettingError, match=r"--precision \(NORMSERVE_PRECISION\) is 'bf16': .*-provider openvino"):
        provider_of(settings(precision="bf16"), {"amx_bf16"})


def test_bf16_is_refused_on_a_processor_that_would_emulate_it() -> None:
    with pytest.raises(SettingError, match=r"NORMSERVE_PRECISION\) is 'bf16': .* neither amx_bf16 nor avx512_bf16;"):
        provider_of(settings(execution_provider="openvino", precision="bf16"), {"avx512f", "avx512_vnni"})


@pytest.mark.parametrize("flag", sorted(BF16_FLAGS))
def test_bf16_is_taken_where_the_processor_has_either_instruction(openvino: Provider, flag: str) -> None:
    provider = provider_of(settings(execution_provider="openvino", precision="bf16"), {"avx512f", flag})
    assert str(provider) == "openvino, bf16"
    assert (provider.tolerance, provider.certificate) == (BF16_TOLERANCE, "report")


def test_openvino_at_fp32_keeps_the_manifests_tolerance_and_is_enforced(openvino: Provider) -> None:
    assert str(openvino) == "openvino, fp32"
    assert (openvino.tolerance, openvino.certificate) == (None, "enforce")


def test_a_machine_whose_processor_openvino_does_not_support_is_refused() -> None:
    graphics = SimpleNamespace(ep_metadata={"ov_device": "GPU"})
    processor = SimpleNamespace(ep_metadata={"ov_device": "CPU"})
    assert openvino_device([graphics, processor]) is processor
    with pytest.raises(SettingError, match=r"NORMSERVE_EXECUTION_PROVIDER\) is 'openvino': OpenVINO does not support"):
        openvino_device([graphics])


def test_without_the_package_it_ends_with_2_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['onnxruntime_ep_openvino'] = None\n"
        "from service.__main__ import main; sys.exit(main(['--execution-provider', 'openvino']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "--execution-provider (NORMSERVE_EXECUTION_PROVIDER) is 'openvino': the package onnxruntime-ep-openvino "
        "(the extra openvino) is not installed: pip install onnxruntime-ep-openvino\n"
    )


def test_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu amx_bf16\nvmx flags\t: vnmi\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor_flags(cpuinfo) == {"fpu", "amx_bf16"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # as ARM has it
    assert processor_flags(cpuinfo) == frozenset()
    assert processor_flags(tmp_path / "none") == frozenset()


# ---- what OpenVINO is told, and does ---------------------------------------------------------------------------------


def test_openvino_is_told_its_precision_threads_and_streams() -> None:
    assert json.loads(openvino_config("fp32", 3)) == {
        "CPU": {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 3,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
    }
    assert json.loads(openvino_config("bf16", 1))["CPU"]["INFERENCE_PRECISION_HINT"] == "bf16"


def test_openvino_computes_the_whole_of_a_transformer(openvino: Provider, tmp_path: Path) -> None:
    artifact = Artifact.read(ARTIFACTS / "pre-ln-charlm" / "1")

    def profiled(threads: int) -> Any:
        options = openvino.session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        return options

    session = certificate.open_session(artifact.graph, artifact.weights, 1, profiled)
    certificate.warm_up(runner(session, artifact.manifest), artifact.manifest)
    events = json.loads(Path(session.end_profiling()).read_text())
    providers = {event["args"]["provider"] for event in events if "provider" in event.get("args", {})}
    assert providers == {"OpenVINOExecutionProvider"}


# ln-cnn-digits is not among them: docs/decisions/0008.
@pytest.mark.parametrize("name", ["ln-mlp-digits", "ln-lstm-charlm", "ln-rnn-charlm", "pre-ln-charlm"])
def test_at_fp32_openvino_keeps_the_claims(openvino: Provider, name: str) -> None:
    claims = measured(name, openvino)
    for claim in ("torch_onnx_parity", "batch_invariant", "thread_invariant"):
        print(name, claim, claims[claim].measured)
        assert claims[claim].holds
        assert "; on openvino, fp32" in claims[claim].how
        assert claims[claim].checked == "start"
    assert claims["metric_preserved"].how.endswith("; on cpu, fp32, not measured on openvino, fp32")
    assert "openvino" not in claims["train_eval_identical"].how


def test_every_position_of_many_batch_sizes_has_the_bits_of_the_row_alone(openvino: Provider) -> None:
    artifact = Artifact.read(ARTIFACTS / "pre-ln-charlm" / "1")
    runs = {threads: opened(artifact, openvino, threads) for threads in (1, 2)}
    pools = [
        certificate.samples(artifact.manifest, (33, length), np.random.default_rng(length)) for length in (1, 5, 32)
    ]
    claim = certificate.batch_invariant(runs, pools, (2, 3, 7, 8, 16, 33), every_position=True)
    print(claim.measured)
    assert claim.holds


def test_at_fp32_openvino_keeps_the_held_out_metric(openvino: Provider) -> None:
    """The service cannot measure it, for want of the data."""
    artifact, data = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1"), digits()
    logits = opened(artifact, openvino, 1)({"x": data.test_images})["logits"]
    metric = artifact.manifest.metric
    assert metric is not None
    assert float((logits.argmax(axis=1) == data.test_labels).mean()) == metric.torch


def test_the_answers_are_openvinos_own(openvino: Provider) -> None:
    """Else the tests above would compare the CPU provider with itself."""
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    ours, theirs = (outputs(opened(artifact, provider, 1), artifact.manifest) for provider in (openvino, CPU))
    assert ours != theirs


def test_openvino_reads_no_weights_but_those_it_is_given(
    openvino: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    (tmp_path / "model.safetensors").write_bytes(bytes(len(artifact.weights)))
    (tmp_path / "other_weights.bin").write_bytes(artifact.weights)
    expected = outputs(opened(artifact, openvino, 1), artifact.manifest)
    monkeypatch.chdir(tmp_path)
    assert outputs(opened(artifact, openvino, 1), artifact.manifest) == expected
    elsewhere = artifact.graph.replace(b"model.safetensors", b"other_weights.bin")
    with pytest.raises(ArtifactError, match="outside model.safetensors, or the execution provider cannot compile it"):
        certificate.open_session(elsewhere, artifact.weights, 1, openvino.session_options)


# ---- bf16 ------------------------------------------------------------------------------------------------------------


def test_the_tolerance_of_bf16_follows_the_scale_of_torchs_outputs(manifest_of: Any) -> None:
    def run(inputs: Arrays) -> Arrays:
        return {"y": 100 * np.sign(inputs["x"])}  # root mean square 100

    manifest = manifest_of()
    packed = Probe.pack([run(inputs) for inputs in certificate.probe_inputs(manifest)])
    manifest = manifest.model_copy(update={"probe": manifest.probe.model_copy(update={"outputs": packed})})

    def off_by(share: float) -> bool:
        claim = certificate.torch_onnx_parity(
            lambda inputs: {"y": run(inputs)["y"] * (1 + share)}, manifest, tolerance=BF16_TOLERANCE
        )
        return claim.holds

    assert off_by(2 * BF16_TOLERANCE * 0.99)  # of the number itself, and of the root mean square
    assert not off_by(2 * BF16_TOLERANCE * 1.01)


def test_the_hint_reaches_openvino_and_emulated_bf16_is_within_its_tolerance(
    openvino: Provider, openvino_bf16: Provider
) -> None:
    if "avx512f" not in processor_flags():
        pytest.skip("OpenVINO was seen to emulate bf16 with AVX-512, which this processor has not")
    artifact = Artifact.read(ARTIFACTS / "ln-mlp-digits" / "1")
    exact, rounded = (outputs(opened(artifact, each, 1), artifact.manifest) for each in (openvino, openvino_bf16))
    assert exact != rounded
    claims = measured("ln-mlp-digits", openvino_bf16)
    print(claims["torch_onnx_parity"])
    assert claims["torch_onnx_parity"].holds
    assert claims["torch_onnx_parity"].measured["max_abs"] > 1e-4
    assert claims["metric_preserved"].how.endswith("not measured on openvino, bf16")


@pytest.mark.skipif(not BF16_HERE, reason=f"this processor has none of {', '.join(sorted(BF16_FLAGS))}")
@pytest.mark.parametrize("name", ["ln-mlp-digits", "ln-lstm-charlm", "pre-ln-charlm"])
def test_at_bf16_openvino_keeps_the_claims(openvino: Provider, name: str) -> None:
    provider = provider_of(settings(execution_provider="openvino", precision="bf16"))
    claims = measured(name, provider)
    for claim in ("torch_onnx_parity", "batch_invariant", "thread_invariant"):
        print(name, claim, claims[claim].measured)
        assert claims[claim].holds
        assert "; on openvino, bf16" in claims[claim].how
