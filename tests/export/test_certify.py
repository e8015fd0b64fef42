"""A claim of the certificate is a measurement: each holds for an honest runtime and fails for one that is not."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.certify import (
    certify,
    float64_error,
    forward,
    main_metric,
    metric_preserved,
    named_outputs,
    train_eval_identical,
    training_mode,
)
from export.held_out import HeldOut
from models.layer_norm import LayerNorm
from models.mlp import MLP, MLPConfig
from service.certificate import batch_invariant, probe_inputs, thread_invariant, torch_onnx_parity
from service.manifest import Certificate, Claim, Dataset, InputTensor, Manifest, OutputTensor, Probe

COLUMNS = 8
Array = np.ndarray
Run = Callable[[dict[str, Array]], dict[str, Array]]


def manifest_of(
    model: nn.Module, *, datatype: str = "FP32", columns: int = COLUMNS, max_rows: int = 16, **bounds: Any
) -> Manifest:
    """A manifest that stores torch's answers to its probe."""
    draft = Manifest(
        name="fake",
        version="1",
        batch_axis=0,
        max_rows=max_rows,
        inputs=[{"name": "x", "datatype": datatype, "shape": [-1, columns], **bounds}],
        outputs=[{"name": "y", "datatype": "FP32", "shape": [-1, -1]}],
        task="none",
        config={},
        files=dict.fromkeys(("model.onnx", "model.safetensors"), "0" * 64),
        versions={},
        probe=Probe(seed=3, shapes=[[2, columns], [5, columns]], outputs="", atol=1e-5, rtol=1e-5),
        certificate=Certificate(model_name="fake", model_version="1", claims=[]),
    )
    answers = [{"y": forward(model.eval(), inputs["x"])} for inputs in probe_inputs(draft)]
    return draft.model_copy(update={"probe": draft.probe.model_copy(update={"outputs": Probe.pack(answers)})})


def served_by(model: nn.Module, change: Callable[[Array], Array] = lambda y: y) -> Run:
    """A runtime that answers as torch does, but for ``change``."""
    return lambda inputs: {"y": change(forward(model.eval(), inputs["x"]))}


def rowwise(inputs: dict[str, Array]) -> dict[str, Array]:
    """A runtime whose every row is its own: the same bits in any batch."""
    return {"y": inputs["x"] * np.float32(3) + np.float32(0.1)}


def mlp(norm: str, dropout: float = 0.0) -> MLP:
    torch.manual_seed(0)
    config = MLPConfig(norm=norm, input_size=COLUMNS, hidden_sizes=(16,), output_size=4, dropout=dropout)  # type: ignore[arg-type]
    return MLP(config)


def normal_rows(count: int = 32) -> Array:
    return np.random.default_rng(0).standard_normal((count, COLUMNS)).astype("f4")


# train_eval_identical and training_mode


def test_layer_norm_is_identical_in_train_and_eval_mode_and_in_any_company() -> None:
    model = mlp("layer")
    claim = train_eval_identical(model, manifest_of(model), {"x": normal_rows()})
    assert claim.holds
    assert claim.measured == {"rows_compared": 32, "mismatching_rows": 0, "max_abs": 0.0}
    assert training_mode(model, manifest_of(model), {"x": normal_rows()})["mismatching_rows"] == 0


def test_batch_norm_is_neither() -> None:
    model = mlp("batch")
    claim = train_eval_identical(model, manifest_of(model), {"x": normal_rows()})
    assert not claim.holds
    assert claim.measured["mismatching_rows"] > 0
    assert claim.measured["max_abs"] > 0
    alone = training_mode(model, manifest_of(model), {"x": normal_rows()})
    assert alone["mismatching_rows"] == alone["rows_compared"] == 8
    assert alone["max_abs"] > 0


@pytest.mark.parametrize("measure", [train_eval_identical, training_mode])
def test_dropout_is_left_out_of_the_comparison(measure: Any) -> None:
    model = mlp("layer", dropout=0.5)
    figures = measure(model, manifest_of(model), {"x": normal_rows()})
    figures = figures.measured if isinstance(figures, Claim) else figures
    assert figures["mismatching_rows"] == 0
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5]


class Recurrent(nn.Module):
    """Dropout that is no nn.Dropout: a module of another class, and one that keeps a number."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout1d = nn.Dropout1d(0.5)
        self.lstm = nn.LSTM(COLUMNS, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(self.dropout1d(x[:, None, :]))[0][:, 0]


def test_every_kind_of_dropout_is_left_out() -> None:
    torch.manual_seed(0)
    model = Recurrent()
    assert train_eval_identical(model, manifest_of(model), {"x": normal_rows()}).holds


def test_few_rows_are_compared_as_far_as_they_go() -> None:
    model = mlp("layer")
    assert training_mode(model, manifest_of(model), {"x": normal_rows(6)})["rows_compared"] == 3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("measure", [train_eval_identical, training_mode])
def test_comparing_modes_leaves_the_model_as_it_was(measure: Any, training: bool) -> None:
    model = mlp("batch")
    manifest = manifest_of(model)
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, manifest, {"x": normal_rows()})
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Carrying(nn.Module):
    """Two outputs, of which the second depends on the batch in training mode, and an optional second input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(COLUMNS)

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return x + before, self.norm(x)


def carrying_manifest() -> Manifest:
    tensor = {"datatype": "FP32", "shape": [-1, COLUMNS]}
    return manifest_of(mlp("layer")).model_copy(
        update={
            "inputs": [InputTensor(name="x", **tensor), InputTensor(name="before", **tensor, optional=True)],
            "outputs": [OutputTensor(name="sum", **tensor), OutputTensor(name="y", **tensor, on_request=True)],
        }
    )


def test_every_output_counts_and_an_input_left_out_is_zeros() -> None:
    model, x = Carrying().eval(), normal_rows()
    outputs = named_outputs(model, carrying_manifest(), {"x": x})
    assert list(outputs) == ["sum", "y"]
    assert outputs["sum"].tobytes() == x.tobytes()
    claim = train_eval_identical(model, carrying_manifest(), {"x": x, "before": x})
    assert claim.measured["mismatching_rows"] == claim.measured["rows_compared"] == 32
    moved = training_mode(model, carrying_manifest(), {"x": x, "before": x})
    assert moved["mismatching_rows"] == moved["rows_compared"] == 8


def test_float64_error_of_a_row_is_that_of_its_worst_output() -> None:
    model, manifest = Carrying(), carrying_manifest()

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        return named_outputs(model.eval(), manifest, inputs)

    assert float64_error(model, run, manifest).holds
    off = float64_error(model, lambda inputs: run(inputs) | {"y": run(inputs)["y"] + np.float32(1e-4)}, manifest)
    assert not off.holds
    assert off.measured["mean 0"]["served_median"] == pytest.approx(1e-4, rel=0.1)


# torch_onnx_parity


def test_parity_holds_for_torchs_own_answers_and_counts_them() -> None:
    model = mlp("layer")
    claim = torch_onnx_parity(served_by(model), manifest_of(model))
    assert claim.holds
    assert claim.measured == {"max_abs": 0.0, "max_ulp": 0, "numbers": (2 + 5) * 4}


@pytest.mark.parametrize(("error", "nonfinite"), [(1e-3, 0), (float("nan"), 2)])
def test_parity_does_not_hold_when_a_single_number_is_off(error: float, nonfinite: int) -> None:
    model = mlp("layer")

    def off(y: Array) -> Array:
        y[-1, -1] += np.float32(error)
        return y

    claim = torch_onnx_parity(served_by(model, off), manifest_of(model))
    assert not claim.holds
    assert (claim.measured["max_abs"] > 1e-4) == (nonfinite == 0)
    assert claim.measured.get("nonfinite", 0) == nonfinite  # one in each of the probe's two shapes


# float64_error


def layer_norm_in_one_pass(inputs: dict[str, Array]) -> dict[str, Array]:
    """The variance as E[x^2] - E[x]^2 in float32, which loses everything at a large mean."""
    x = inputs["x"]
    mean = x.mean(-1, keepdims=True)
    variance = np.maximum((x * x).mean(-1, keepdims=True) - mean * mean, np.float32(0))
    return {"y": (x - mean) / np.sqrt(variance + np.float32(1e-5))}


def test_float64_error_holds_for_torch_itself_at_every_mean() -> None:
    model = mlp("layer")
    claim = float64_error(model, served_by(model), manifest_of(model))
    assert claim.holds
    assert list(claim.measured) == ["mean 0", "mean 1000", "mean 10000"]
    for figures in claim.measured.values():
        assert figures["served_median"] == figures["torch_median"] > 0
        assert figures["served_max"] == figures["torch_max"] >= figures["torch_median"]


def test_float64_error_does_not_hold_for_a_runtime_that_is_off() -> None:
    model = mlp("layer")
    off = served_by(model, lambda y: y + np.float32(1e-4))
    claim = float64_error(model, off, manifest_of(model))
    assert not claim.holds
    assert claim.measured["mean 0"]["served_median"] == pytest.approx(1e-4, rel=0.1)


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(torch.arange(x.shape[1]) == 0, -torch.inf)


def test_float64_error_of_a_masked_logit_is_none_and_of_one_that_should_be_is_the_largest() -> None:
    model = Masked()
    claim = float64_error(model, served_by(model), manifest_of(model))
    assert claim.holds
    assert claim.measured["mean 0"]["served_max"] == 0
    unmasked = float64_error(model, served_by(model, lambda y: np.nan_to_num(y)), manifest_of(model))
    assert not unmasked.holds
    json.dumps(unmasked.measured, allow_nan=False)


def test_float64_error_does_not_hold_for_a_variance_taken_in_one_pass() -> None:
    model = LayerNorm(64)  # wide enough for its float32 sums to go wrong
    claim = float64_error(model, layer_norm_in_one_pass, manifest_of(model, columns=64))
    assert not claim.holds
    # At mean 0 nothing shows: the large means are what the claim is for.
    at_0, at_10000 = claim.measured["mean 0"], claim.measured["mean 10000"]
    assert at_0["served_median"] <= 2 * at_0["torch_median"] + 2 * at_0["ulp"]
    assert at_10000["served_median"] > 10 * at_10000["torch_median"]


def test_float64_error_does_not_hold_for_a_runtime_that_answers_nan() -> None:
    model = mlp("layer")
    nothing = served_by(model, lambda y: np.full_like(y, np.nan))
    assert not float64_error(model, nothing, manifest_of(model)).holds


def test_float64_error_leaves_the_model_in_float32() -> None:
    model = mlp("batch")
    float64_error(model, served_by(model), manifest_of(model))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Embedded(nn.Module):
    """Integers in, numbers out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.norm = LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.embedding(ids)).flatten(1)  # (N, T) -> (N, T, 6) -> (N, 6T)


def test_float64_error_of_a_model_of_integers_has_no_means() -> None:
    torch.manual_seed(0)
    model = Embedded()
    manifest = manifest_of(model, datatype="INT64", minimum=0, maximum=4)
    claim = float64_error(model, served_by(model), manifest)
    assert claim.holds
    assert list(claim.measured) == ["all rows"]
    assert not float64_error(model, served_by(model, lambda y: y + np.float32(1e-3)), manifest).holds


# batch_invariant and thread_invariant


def of_its_batch(inputs: dict[str, Array]) -> dict[str, Array]:
    x = inputs["x"]
    return {"y": x - x.mean(axis=0)}


def of_its_position(inputs: dict[str, Array]) -> dict[str, Array]:
    x = inputs["x"].copy()
    x[3:4] = np.nextafter(x[3:4], np.float32(np.inf))  # one bit, and only in the fourth row
    return {"y": x}


def of_its_batch_size(inputs: dict[str, Array]) -> dict[str, Array]:
    x = inputs["x"]
    return {"y": x * np.float32(1 + 1e-6) if len(x) >= 16 else x}


def short_of_a_row(inputs: dict[str, Array]) -> dict[str, Array]:
    x = inputs["x"]
    return {"y": x[:-1] if len(x) == 7 else x}


@pytest.mark.parametrize("every_position", [True, False])
def test_rows_of_their_own_are_batch_invariant(every_position: bool) -> None:
    claim = batch_invariant({1: rowwise}, [{"x": normal_rows()}], [1, 2, 7, 32], every_position=every_position)
    assert claim.holds
    assert claim.measured["mismatching_rows"] == 0
    assert claim.measured["rows_compared"] == (2 * (1 + 2 + 7 + 32) if every_position else 1 + 2 + 3 + 3)


@pytest.mark.parametrize("run", [of_its_batch, of_its_position, of_its_batch_size, short_of_a_row])
def test_rows_that_depend_on_their_batch_are_not(run: Run) -> None:
    claim = batch_invariant({1: run}, [{"x": normal_rows()}], [1, 2, 7, 32], every_position=True)
    assert not claim.holds
    assert claim.measured["mismatching_rows"] > 0


def test_one_pool_and_one_number_of_threads_that_differ_are_enough() -> None:
    sizes, same, zeros = [1, 4], {"x": normal_rows()}, {"x": np.zeros((4, COLUMNS), "f4")}
    assert batch_invariant({1: rowwise, 2: rowwise}, [same, zeros], sizes).holds
    assert not batch_invariant({1: rowwise, 2: of_its_batch}, [same, zeros], sizes).holds
    assert batch_invariant({1: of_its_batch}, [zeros], sizes).holds
    assert not batch_invariant({1: of_its_batch}, [zeros, same], sizes).holds


def test_equal_answers_of_every_number_of_threads_are_thread_invariant() -> None:
    claim = thread_invariant({1: rowwise, 2: rowwise, 4: rowwise}, [{"x": normal_rows()}, {"x": normal_rows(3)}])
    assert claim.holds
    assert claim.measured == {"batches_compared": 4, "mismatching_batches": 0, "threads": [1, 2, 4]}


def test_a_last_bit_that_differs_with_threads_is_not_thread_invariant() -> None:
    def last_bit(inputs: dict[str, Array]) -> dict[str, Array]:
        y = rowwise(inputs)["y"]
        y[-1, -1] = np.nextafter(y[-1, -1], np.float32(np.inf))
        return {"y": y}

    claim = thread_invariant({1: rowwise, 2: rowwise, 4: last_bit}, [{"x": normal_rows()}])
    assert not claim.holds
    assert claim.measured["mismatching_batches"] == 1


# metric_preserved


def labelled(model: nn.Module, rows: int = 21) -> HeldOut:
    """Rows labelled as the model sees them: a served row that changes its class costs 1 / rows."""
    x = normal_rows(rows)
    labels = forward(model.eval(), x).argmax(axis=1)

    def metrics(outputs: dict[str, Array]) -> dict[str, float]:
        y = outputs["y"]
        return {"accuracy": float((y.argmax(axis=1) == labels).mean()), "spread": float(y.std())}

    return HeldOut("rows", "0" * 64, "all", {"x": x}, metrics)


def test_metric_is_preserved_by_torchs_own_answers_in_batches_the_model_takes() -> None:
    model = mlp("layer")
    batches = []

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        batches.append(len(inputs["x"]))
        return {"y": forward(model.eval(), inputs["x"])}

    claim = metric_preserved(model, run, manifest_of(model, max_rows=8), labelled(model))
    assert claim.holds
    assert batches == [7, 7, 7]
    assert list(claim.measured) == ["accuracy", "spread"]
    assert claim.measured["accuracy"] == {"torch": 1.0, "served": 1.0}


def one_row_turned_round(y: Array) -> Array:
    y[0] = -y[0]
    return y


@pytest.mark.parametrize(
    "change",
    [one_row_turned_round, lambda y: y * np.float32(1 + 1e-4), lambda y: y * np.float32(np.nan)],
    ids=["another class", "another second metric", "nan"],
)
def test_metric_is_not_preserved_when_served_answers_differ(change: Callable[[Array], Array]) -> None:
    model = mlp("layer")
    claim = metric_preserved(model, served_by(model, change), manifest_of(model), labelled(model))
    assert not claim.holds


def test_main_metric_is_the_first_one_and_there_is_none_without_held_out_data() -> None:
    model = mlp("layer")
    half = served_by(model, one_row_turned_round)
    claim = metric_preserved(model, half, manifest_of(model, max_rows=256), labelled(model))
    metric = main_metric([claim])
    assert metric is not None
    assert metric.name == "accuracy"
    assert metric.torch == 1.0
    assert metric.served == pytest.approx(20 / 21)
    assert main_metric([train_eval_identical(model, manifest_of(model), {"x": normal_rows()})]) is None


# the whole certificate


def test_every_claim_is_measured_on_the_runtime_it_is_given() -> None:
    model = mlp("layer")
    manifest = manifest_of(model).model_copy(update={"dataset": Dataset(name="rows", sha256="0" * 64, split="all")})
    off = served_by(model, lambda y: y - y.mean(axis=0))
    claims = certify(model, manifest, {1: served_by(model), 2: off}, labelled(model))
    holds = {claim.claim: claim.holds for claim in claims}
    # The runtime with one thread is torch, the one with two depends on its batch.
    assert holds["train_eval_identical"]
    assert holds["torch_onnx_parity"]
    assert holds["float64_error"]
    assert not holds["batch_invariant"]
    assert not holds["thread_invariant"]
    assert holds["metric_preserved"]
    assert {claim.checked for claim in claims} == {"export"}


@pytest.mark.parametrize("max_rows", [16, 20, 64])
def test_batches_are_tried_up_to_the_rows_a_model_takes(max_rows: int) -> None:
    model = mlp("layer")
    claims = certify(model, manifest_of(model, max_rows=max_rows), {1: served_by(model)}, None)
    (claim,) = (claim for claim in claims if claim.claim == "batch_invariant")
    assert max(claim.measured["batch_sizes"]) == max_rows
    assert {1, 2, 3, 4, 7, 8, 9, 15, 16} <= set(claim.measured["batch_sizes"])
