"""What is exported: name -> :class:`ExportSpec`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from export.held_out import HeldOut, held_out_digits
from export.topics import ALPHABET, held_out_topics
from models.convolutional import CNN, CNNConfig
from models.mlp import MLP, MLPConfig
from models.recurrent import CELLS, CellKind, RecurrentConfig, RecurrentLM
from models.transformer import Encoder, Placement, TransformerConfig, TransformerLM
from service.manifest import InputTensor, OutputTensor


@dataclass(frozen=True)
class ExportSpec:
    """How a model is built from its checkpoint, and what its manifest says of it.

    inputs, outputs: in the order of the module's parameters and of what it returns. example_shape: of the first input
    at export; sizes that vary are at least 2 there, because torch takes 0 and 1 for constants. probe_shapes: what the
    service compares itself with torch on. atol, rtol: the parity that is promised.
    """

    name: str
    build: Callable[[], nn.Module]
    config: dict[str, Any]
    task: str
    inputs: tuple[InputTensor, ...]
    outputs: tuple[OutputTensor, ...]
    example_shape: tuple[int, ...]
    probe_shapes: tuple[tuple[int, ...], ...]
    atol: float
    rtol: float
    held_out: Callable[[], HeldOut] | None = None
    trained_by: str | None = None  # the experiment; None: random weights, for speed only
    max_rows: int = 256
    version: str = "1"
    alphabet: str | None = None


def _digits(
    name: str, build: Callable[[], nn.Module], config: MLPConfig | CNNConfig, row: tuple[int, ...], trained_by: str
) -> ExportSpec:
    return ExportSpec(
        name=name,
        build=build,
        config=asdict(config),
        task="handwritten digit, 0 to 9",
        inputs=(
            InputTensor(
                name="x", datatype="FP32", shape=[-1, *row], scale="pixel / 16", meaning="8 x 8 pixels, row by row"
            ),
        ),
        outputs=(OutputTensor(name="logits", datatype="FP32", shape=[-1, config.output_size]),),
        example_shape=(3, *row),
        probe_shapes=((2, *row), (7, *row)),
        atol=1e-5,
        rtol=1e-5,
        held_out=lambda: held_out_digits(row),
        trained_by=trained_by,
    )


def _mlp_digits(name: str, config: MLPConfig) -> ExportSpec:
    return _digits(name, lambda: MLP(config), config, (config.input_size,), "digits-mlp")


def _cnn_digits(name: str, config: CNNConfig) -> ExportSpec:
    return _digits(name, lambda: CNN(config), config, (1, config.image_size, config.image_size), "digits-cnn")


def _encoder(name: str, config: TransformerConfig) -> ExportSpec:
    shape = [-1, -1, config.d_model]
    return ExportSpec(
        name=name,
        build=lambda: Encoder(config),
        config=asdict(config),
        task="none: random weights, for measuring speed",
        inputs=(
            InputTensor(
                name="x", datatype="FP32", shape=shape, max_shape=[256, 512, config.d_model], meaning="embedded tokens"
            ),
        ),
        outputs=(OutputTensor(name="y", datatype="FP32", shape=shape),),
        example_shape=(3, 5, config.d_model),
        probe_shapes=((2, 2, config.d_model), (2, 7, config.d_model)),
        atol=1e-4,
        rtol=1e-4,
    )


def _character_lm(
    name: str, build: Callable[[], nn.Module], config: object, parity: float, state: Sequence[tuple[str, int]] = ()
) -> ExportSpec:
    """state: what a recurrent model carries from step to step, name and size."""
    ids = InputTensor(
        name="ids",
        datatype="INT64",
        shape=[-1, -1],
        minimum=0,
        maximum=len(ALPHABET) - 1,
        max_shape=[256, 512],
        meaning="characters, as positions in `alphabet`",
    )
    before = (
        InputTensor(
            name=f"initial_{letter}",
            datatype="FP32",
            shape=[-1, size],
            optional=True,
            meaning=f"the final_{letter} of what came before; zeros at the beginning",
        )
        for letter, size in state
    )
    after = (
        OutputTensor(name=f"final_{letter}", datatype="FP32", shape=[-1, size], on_request=True)
        for letter, size in state
    )
    return ExportSpec(
        name=name,
        build=build,
        config=asdict(config),  # type: ignore[call-overload]  # a dataclass of models/
        task="next character",
        inputs=(ids, *before),
        outputs=(OutputTensor(name="logits", datatype="FP32", shape=[-1, -1, len(ALPHABET)]), *after),
        example_shape=(3, 5),
        probe_shapes=((2, 2), (2, 7)),
        atol=parity,
        rtol=parity,
        held_out=held_out_topics,
        trained_by="character-lm",
        alphabet=ALPHABET,
    )


def _recurrent(name: str, cell: CellKind, *, normalised: bool) -> ExportSpec:
    config = RecurrentConfig(cell, normalised, len(ALPHABET))
    state = [(letter, config.hidden_size) for letter in CELLS[cell].state]
    return _character_lm(name, lambda: RecurrentLM(config), config, 1e-5, state)


def _transformer(name: str, placement: Placement) -> ExportSpec:
    config = TransformerConfig(placement, causal=True, d_model=128, d_ff=512)
    return _character_lm(name, lambda: TransformerLM(len(ALPHABET), config), config, 1e-4)


_SPECS = (
    _mlp_digits("ln-mlp-digits", MLPConfig(norm="layer")),
    _mlp_digits("bn-mlp-digits", MLPConfig(norm="batch")),
    _cnn_digits("ln-cnn-digits", CNNConfig(norm="layer")),
    _cnn_digits("bn-cnn-digits", CNNConfig(norm="batch")),
    _recurrent("ln-rnn-charlm", "rnn", normalised=True),
    _recurrent("ln-lstm-charlm", "lstm", normalised=True),
    _recurrent("ln-gru-charlm", "gru", normalised=True),
    _recurrent("lstm-charlm", "lstm", normalised=False),
    _transformer("pre-ln-charlm", "pre"),
    _transformer("post-ln-charlm", "post"),
    _transformer("admin-charlm", "admin"),
    _encoder("pre-ln-encoder", TransformerConfig(placement="pre")),
    _encoder("post-ln-encoder", TransformerConfig(placement="post")),
)

CATALOG: dict[str, ExportSpec] = {spec.name: spec for spec in _SPECS}

# What stands in artifacts/: the trained models. Those of random weights are made on request, into another folder.
REFERENCE_MODELS: tuple[str, ...] = tuple(spec.name for spec in _SPECS if spec.trained_by)
