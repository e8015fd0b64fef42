"""What is exported: name -> :class:`ExportSpec`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from export.held_out import HeldOut, held_out_digits
from models.mlp import MLP, MLPConfig
from models.transformer import Encoder, TransformerConfig
from service.manifest import InputTensor, OutputTensor


@dataclass(frozen=True)
class ExportSpec:
    """How a model is built from its checkpoint, and what its manifest says of it.

    example_shape: of the one input at export; sizes that vary are at least 2 there, because torch takes 0 and 1 for
    constants. probe_shapes: what the service compares itself with torch on. atol, rtol: the parity that is promised.
    """

    name: str
    build: Callable[[], nn.Module]
    config: dict[str, Any]
    task: str
    input: InputTensor
    output: OutputTensor
    example_shape: tuple[int, ...]
    probe_shapes: tuple[tuple[int, ...], ...]
    atol: float
    rtol: float
    held_out: Callable[[], HeldOut] | None = None
    trained_by: str | None = None  # the experiment; None: random weights, for speed only
    max_rows: int = 256
    version: str = "1"


def _mlp_digits(name: str, config: MLPConfig) -> ExportSpec:
    return ExportSpec(
        name=name,
        build=lambda: MLP(config),
        config=asdict(config),
        task="handwritten digit, 0 to 9",
        input=InputTensor(
            name="x",
            datatype="FP32",
            shape=[-1, config.input_size],
            scale="pixel / 16",
            meaning="8 x 8 pixels, row by row",
        ),
        output=OutputTensor(name="logits", datatype="FP32", shape=[-1, config.output_size]),
        example_shape=(3, config.input_size),
        probe_shapes=((2, config.input_size), (7, config.input_size)),
        atol=1e-5,
        rtol=1e-5,
        held_out=held_out_digits,
        trained_by="digits-mlp",
    )


def _encoder(name: str, config: TransformerConfig) -> ExportSpec:
    shape = [-1, -1, config.d_model]
    return ExportSpec(
        name=name,
        build=lambda: Encoder(config),
        config=asdict(config),
        task="none: random weights, for measuring speed",
        input=InputTensor(
            name="x", datatype="FP32", shape=shape, max_shape=[256, 512, config.d_model], meaning="embedded tokens"
        ),
        output=OutputTensor(name="y", datatype="FP32", shape=shape),
        example_shape=(3, 5, config.d_model),
        probe_shapes=((2, 2, config.d_model), (2, 7, config.d_model)),
        atol=1e-4,
        rtol=1e-4,
    )


_SPECS = (
    _mlp_digits("ln-mlp-digits", MLPConfig(norm="layer")),
    _mlp_digits("bn-mlp-digits", MLPConfig(norm="batch")),
    _encoder("pre-ln-encoder", TransformerConfig(placement="pre")),
    _encoder("post-ln-encoder", TransformerConfig(placement="post")),
)

CATALOG: dict[str, ExportSpec] = {spec.name: spec for spec in _SPECS}

# What stands in artifacts/: the trained models. Those of random weights are made on request, into another folder.
REFERENCE_MODELS: tuple[str, ...] = tuple(spec.name for spec in _SPECS if spec.trained_by)
