"""Models of torchvision and timm, where they are installed and go with this torch (PyPI has them for one with CUDA)."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from export import export_model

PIXELS = 64


def package(name: str) -> ModuleType:
    # Another build of torch lacks the operators that the package registers: a RuntimeError.
    return pytest.importorskip(name, exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type,no-any-return]


@pytest.mark.parametrize(
    ("name", "model", "broken"),
    [
        ("torchvision", "mobilenet_v3_small", {"train_eval_identical"}),  # BatchNorm
        ("torchvision", "convnext_tiny", {"train_eval_identical"}),  # StochasticDepth, which is no dropout of torch's
        ("timm", "vit_tiny_patch16_224", set()),
        ("timm", "mixer_s32_224", set()),
    ],
)
def test_a_model_of_a_package_keeps_the_claims_that_its_norms_keep(
    name: str, model: str, broken: set[str], tmp_path: Path
) -> None:
    found = package(name)
    torch.manual_seed(0)
    made = (
        found.models.get_model(model, weights=None)
        if name == "torchvision"
        else found.create_model(model, img_size=PIXELS)
    )
    example = {"images": torch.randn(2, 3, PIXELS, PIXELS)}
    manifest = export_model(made, example, "theirs", tmp_path, max_rows=4, samples=2, console=Console(quiet=True))
    assert {claim.claim for claim in manifest.certificate.claims if not claim.holds} == broken
