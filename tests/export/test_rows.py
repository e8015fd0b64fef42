"""What a certificate is measured on: rows that differ, weights as they were, tolerances that suit each output."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from export import export_model
from export.errors import ExportError
from export.recorded import least_rms_of

QUIET = Console(quiet=True)


class OverTheBatch(nn.Module):
    """Divides by the largest id of the whole batch: of equal rows, that is each row's own."""

    def forward(self, ids: Tensor) -> Tensor:
        return ids.float() / ids.max()


class Counting(nn.Module):
    """Counts its runs, also in eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(x)  # type: ignore[no-any-return]


def test_one_row_of_integers_is_no_proof_that_rows_are_kept_apart(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give an example of two different rows"):
        export_model(OverTheBatch(), {"ids": torch.tensor([[3, 1, 2]])}, "m", tmp_path, console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_two_rows_show_that_the_batch_is_looked_at(tmp_path: Path) -> None:
    rows = torch.tensor([[3, 1, 2], [9, 8, 7]])
    manifest = export_model(OverTheBatch(), {"ids": rows}, "m", tmp_path, console=QUIET)
    held = {claim.claim: claim.holds for claim in manifest.certificate.claims}
    assert held["torch_onnx_parity"]
    assert not held["batch_invariant"]


def test_weights_are_those_from_before_any_run(tmp_path: Path) -> None:
    model = Counting()
    export_model(model, {"x": torch.randn(2, 4)}, "m", tmp_path, console=QUIET)
    assert load_file(tmp_path / "m" / "1" / "model.safetensors")["calls"] == 0
    assert model.calls == 0


def test_a_large_output_is_no_measure_for_a_small_one() -> None:
    small, large = np.full(4, 0.5, "f4"), np.full(4, 1e9, "f4")
    assert least_rms_of([large, small, np.full(4, 10**6)]) == pytest.approx(0.5)


def test_of_a_model_whose_rows_change_each_other_requests_are_not_merged(tmp_path: Path, serve: Any) -> None:
    rows = torch.tensor([[3, 1, 2], [9, 8, 7]])
    export_model(OverTheBatch(), {"ids": rows}, "m", tmp_path, bounds={"ids": (1, 1000)}, console=QUIET)

    def answer(largest: int) -> list[float]:
        inputs = [{"name": "ids", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, largest]}]
        answered = httpx.post(f"{address}/v2/models/m/infer", json={"inputs": inputs})
        found: list[float] = answered.json()["outputs"][0]["data"]
        return found

    with serve(model_repository=tmp_path) as address, ThreadPoolExecutor(16) as threads:
        asked = [3, 1000] * 100
        answers = list(threads.map(answer, asked))
        batching = httpx.get(f"{address}/v2/models/m/config").json()["batching"]
    for largest, found in zip(asked, answers, strict=True):
        assert found == pytest.approx([1 / largest, 2 / largest, 1])
    assert (batching["enabled"], batching["max_batch_size"]) == (False, 1)
    assert batching["reason"].startswith("rows of the model change each other")
