"""What the execution provider decides of a model whose certificate does not hold on it."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.metrics import Metrics
from service.model_control import ModelControl
from service.ops import OPERATIONS
from service.provider import CPU
from service.repository import ModelRepository
from service.settings import Settings

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
NAME = "ln-mlp-digits"
# As bf16 is, but of a tolerance that no two implementations keep: parity fails.
ROUGH = replace(CPU, precision="bf16", tolerance=0.0, certificate="report")


@pytest.mark.parametrize(
    ("setting", "state"),
    [({}, "READY"), ({"certificate": "report"}, "READY"), ({"certificate": "enforce"}, "UNAVAILABLE")],
)
async def test_the_setting_decides_and_without_it_the_provider(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: dict[str, Any], state: str
) -> None:
    shutil.copytree(ARTIFACTS / NAME, tmp_path / NAME)
    repository = ModelRepository(tmp_path, Metrics())
    control = ModelControl(repository, Settings(model_repository=tmp_path, **setting), ROUGH)
    repository.scan()
    try:
        with caplog.at_level(logging.INFO):
            await control.start()
        index = {entry.name: entry for entry in repository.index()}
        assert index[NAME].state == state
        assert all(index[name].state == "READY" for name in OPERATIONS)
        if state == "READY":
            claims = {claim.claim: claim.holds for claim in repository.get(NAME).certificate.claims}
            assert (claims["torch_onnx_parity"], claims["batch_invariant"]) == (False, True)
        else:
            assert "torch_onnx_parity" in index[NAME].reason
            assert index[NAME].reason.endswith("; on cpu, bf16")
    finally:
        await control.close()
    assert "models are computed on cpu, bf16, operations on cpu" in caplog.text
