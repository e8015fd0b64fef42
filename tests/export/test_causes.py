"""Where a claim does not hold, the cause that is named is the one that is there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import parser
from rich.console import Console
from torch import Tensor, nn

from export import ExportError, export_model
from export.notes import dynamic_quantisation, in_float64
from service.manifest import Manifest

COLUMNS = 6


class Inner(nn.Module):
    """A module around one step, so that a cause has a path."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.before, self.step, self.after = nn.Linear(COLUMNS, COLUMNS), step, nn.Linear(COLUMNS, COLUMNS)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.step(self.before(x)))


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class DroppingInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.training)


class TwiceInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


class Float64Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.tensor(np.full(COLUMNS, 0.5))).float()


class Counting(nn.Module):
    """Changes a buffer that its answer does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def export(step: nn.Module, repository: Path, **more: Any) -> Manifest:
    torch.manual_seed(0)
    example = {"x": torch.randn(4, COLUMNS)}
    return export_model(Inner(step), example, "m", repository, max_rows=4, console=Console(quiet=True), **more)


@pytest.mark.parametrize(
    ("step", "claim", "words"),
    [
        (Centred(), "batch_invariant", "in step (Centred) a row is computed from the others of its batch"),
        (nn.BatchNorm1d(COLUMNS), "train_eval_identical", "step (BatchNorm1d): in training it normalises by the batch"),
        (DroppingInTraining(), "train_eval_identical", "step (DroppingInTraining): draws random numbers in training"),
        (TwiceInTraining(), "train_eval_identical", "step (TwiceInTraining): computes something else in training"),
    ],
    ids=["mean over rows", "BatchNorm", "dropout", "another function"],
)
def test_the_module_at_fault_is_named(step: nn.Module, claim: str, words: str, tmp_path: Path) -> None:
    manifest = export(step, tmp_path)
    broken = {each.claim: each for each in manifest.certificate.claims if not each.holds}
    assert list(broken) == [claim]
    assert broken[claim].measured["cause"].startswith(words)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Float64Constant(), r"float64: \w+ computes in it, though no input is FP64"),
        (Counting(), r"forward changes step.calls in place; as served it stays as exported"),
    ],
)
def test_what_breaks_no_claim_is_noted(step: nn.Module, words: str, tmp_path: Path) -> None:
    manifest = export(step, tmp_path)
    assert all(claim.holds for claim in manifest.certificate.claims)
    (note,) = manifest.config["notes"]
    assert re.match(words, note)


def test_an_answer_that_is_no_number_is_the_modules_own(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="y of torch itself is not a number"):
        export(Logarithm(), tmp_path)


def graph(body: str) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {body}'))


def test_dynamic_quantisation_is_seen_in_the_graph() -> None:
    quantised = graph("g (float[N, 4] x) => (uint8[N, 4] y) { y, scale, zero = DynamicQuantizeLinear (x) }")
    plain = graph("g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }")
    assert dynamic_quantisation(quantised)
    assert not dynamic_quantisation(plain)
    assert in_float64(plain) == ""
    assert in_float64(graph("g (float[N, 4] x) => (double[N, 4] y) { y = Cast <to = 11> (x) }")) == "Cast"
