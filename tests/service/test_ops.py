"""The operations against their definitions in float64, torch's kernels, and what callers may get wrong."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from service.errors import InvalidInputError
from service.op_runtime import Operator, computes_in_fp64
from service.ops import OPERATIONS
from service.protocol import Array, Arrays

OPERATOR = Operator()
PER_ROW = ("layer_norm", "rms_norm")
SHAPES = [
    (1,), (2,), (5,), (3, 1), (3, 2), (1, 768), (7, 33), (4, 4096),
    (2, 8, 1), (2, 8, 2), (3, 6, 5), (2, 8, 7, 3), (2, 4, 3, 2, 5), (2, 6, 130), (3, 2, 11, 13),
]  # fmt: skip
VALUES = [(0, 1), (1e3, 1), (1e4, 1), (1e4, 0), (5, 1e-6), (-3e-3, 1e-6), (0, 1e6)]  # mean, standard deviation
EPS = (1e-5, 1e-12)
EXACT = np.longdouble
SHORT, MIDDLE = 6, 96  # computed in FP64, and in FP32
CASES = [
    (name, shape)
    for name, shape in itertools.product(OPERATIONS, SHAPES)
    if len(shape) >= {"instance_norm": 3, "group_norm": 2, "batch_norm": 2}.get(name, 1)
]


def run(name: str, inputs: Arrays, **parameters: Any) -> Arrays:
    operation = OPERATIONS[name]
    return OPERATOR.run(operation.task(inputs, parameters))


def draw(name: str, shape: tuple[int, ...], mean: float, std: float, dtype: str, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    size = shape[-1] if name in PER_ROW else shape[1]
    inputs = {
        "x": rng.standard_normal(shape) * std + mean,
        "weight": rng.standard_normal(size),
        "bias": rng.standard_normal(size),
    }
    if name == "batch_norm":
        inputs |= {"running_mean": rng.standard_normal(size) + mean, "running_var": rng.random(size) * std**2}
    return {key: array.astype(dtype) for key, array in inputs.items()}


def groups_of(channels: int) -> int:
    return 2 if channels % 2 == 0 else 1


def column(array: Array, rank: int) -> Array:
    return array.reshape(-1, *(1,) * (rank - 2))


def two_passes(x: Array, axes: Any, eps: float) -> Array:
    x = x.astype(EXACT)
    deviation = x - x.mean(axes, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(axes, keepdims=True) + EXACT(eps))


def definition(name: str, inputs: Arrays, eps: float, training: bool) -> Array:
    x, rank = inputs["x"], inputs["x"].ndim
    weight, bias = inputs["weight"].astype(EXACT), inputs["bias"].astype(EXACT)
    if name == "layer_norm":
        return two_passes(x, -1, eps) * weight + bias
    if name == "rms_norm":
        mean_square = (x.astype(EXACT) ** 2).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + EXACT(eps)) * weight + bias
    weight, bias = column(weight, rank), column(bias, rank)
    if name == "batch_norm" and not training:
        mean, variance = (column(inputs[key].astype(EXACT), rank) for key in ("running_mean", "running_var"))
        return (x - mean) / np.sqrt(variance + EXACT(eps)) * weight + bias
    if name == "batch_norm":
        return two_passes(x, (0, *range(2, rank)), eps) * weight + bias
    groups = x.shape[1] if name == "instance_norm" else groups_of(x.shape[1])
    return two_passes(x.reshape(x.shape[0], groups, -1), -1, eps).reshape(x.shape) * weight + bias


def by_torch(name: str, inputs: Arrays, eps: float, training: bool) -> Array:
    x, weight, bias = (torch.from_numpy(inputs[key]) for key in ("x", "weight", "bias"))
    if name == "layer_norm":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps).numpy()
    if name == "rms_norm":
        return (F.rms_norm(x, x.shape[-1:], weight, eps) + bias).numpy()
    if name == "group_norm":
        return F.group_norm(x, groups_of(x.shape[1]), weight, bias, eps).numpy()
    if name == "instance_norm":
        return F.instance_norm(x, weight=weight, bias=bias, eps=eps).numpy()
    mean, variance = (torch.from_numpy(inputs[key].copy()) for key in ("running_mean", "running_var"))
    return F.batch_norm(x, mean, variance, weight, bias, training, 0.1, eps).numpy()


def parameters_of(name: str, shape: tuple[int, ...], training: bool) -> dict[str, Any]:
    if name == "group_norm":
        return {"num_groups": groups_of(shape[1])}
    return {"training": training} if name == "batch_norm" else {}


def computes_nothing(name: str, shape: tuple[int, ...], training: bool) -> bool:
    """What torch refuses: statistics of one value. Its answer is the bias all the same, but for batch_norm."""
    return training and int(np.prod(shape)) == shape[1]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_the_error_is_at_most_twice_torchs_and_2_ulp(name: str, shape: tuple[int, ...], dtype: str) -> None:
    for (mean, std), eps, training in itertools.product(VALUES, EPS, {False, name == "batch_norm"}):
        if computes_nothing(name, shape, training):
            continue
        inputs = draw(name, shape, mean, std, dtype)
        wanted = definition(name, inputs, eps, training)
        y = run(name, inputs, eps=eps, **parameters_of(name, shape, training))["y"]
        assert (y.dtype, y.shape) == (inputs["x"].dtype, shape)
        error, ulp = np.abs(y - wanted).max(), np.spacing(np.abs(wanted).max().astype(dtype))
        try:
            allowed = 2 * np.abs(by_torch(name, inputs, eps, training) - wanted).max() + 2 * ulp
        except ValueError:  # torch takes no statistics of a single value
            allowed = 2 * ulp
        assert error <= allowed, (mean, std, eps, training)
        if dtype == "f4" and (mean, std) == (1e4, 1) and (training or name != "batch_norm"):
            assert error <= 2e-3


@pytest.mark.parametrize("value", [0.1, 1234.1, -7.3, 1e4 + 0.1, 3e7, 1e-30])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_the_answer_to_a_constant_is_exactly_the_bias(
    name: str, shape: tuple[int, ...], dtype: str, value: float
) -> None:
    if name == "rms_norm" or computes_nothing(name, shape, name == "batch_norm"):
        return  # RMSNorm takes no mean off: a constant is not zero to it
    if dtype == "f2" and value > float(np.finfo("f2").max):
        return
    inputs = draw(name, shape, 0, 1, dtype) | {"x": np.full(shape, value, dtype)}
    y = run(name, inputs, **parameters_of(name, shape, training=True))["y"]
    bias = inputs["bias"] if name == "layer_norm" else column(inputs["bias"], len(shape))
    assert y.tobytes() == np.broadcast_to(bias, shape).astype(dtype).tobytes()


@pytest.mark.parametrize("size", [SHORT, MIDDLE])
@pytest.mark.parametrize("name", OPERATIONS)
def test_weight_and_bias_left_out_are_ones_and_zeros(name: str, size: int) -> None:
    inputs = draw(name, (3, 4, size), 1, 2, "f4")
    more = {"num_groups": 2} if name == "group_norm" else {}
    neutral = {"weight": np.ones_like(inputs["weight"]), "bias": np.zeros_like(inputs["bias"])}
    without = {key: array for key, array in inputs.items() if key not in neutral}
    assert run(name, without, **more)["y"].tobytes() == run(name, inputs | neutral, **more)["y"].tobytes()


@pytest.mark.parametrize("name", PER_ROW)
@pytest.mark.parametrize("axis", [-1, -2, -3, 0, 1, 2])
def test_the_axes_from_axis_on_are_normalised_together(name: str, axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    weight = np.random.default_rng(1).standard_normal(x.shape[axis:])
    found = run(name, {"x": x, "weight": weight}, axis=axis)
    normalize = F.layer_norm if name == "layer_norm" else F.rms_norm
    expected = normalize(torch.from_numpy(x), weight.shape, torch.from_numpy(weight), eps=1e-5)
    np.testing.assert_allclose(found["y"], expected.numpy(), rtol=1e-12, atol=1e-12)
    rows = x.reshape(*x.shape[:axis], -1)
    second_moment = (rows**2).mean(-1) if name == "rms_norm" else rows.var(-1)
    assert found["mean"].shape == found["inv_std"].shape == (*x.shape[:axis], *(1,) * weight.ndim)
    np.testing.assert_allclose(found["mean"].ravel(), rows.mean(-1).ravel(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found["inv_std"].ravel(), 1 / np.sqrt(second_moment + 1e-5).ravel(), rtol=1e-12)


@pytest.mark.parametrize("size", [SHORT, MIDDLE])
@pytest.mark.parametrize("eps", [1e-300, 1e-45, 1e-37, 1e-20, 1.0, 1e20, 1e37, 1e39, 1e300])
@pytest.mark.parametrize("name", OPERATIONS)
def test_eps_may_be_any_positive_number(name: str, eps: float, size: int) -> None:
    for std, training in itertools.product((1e-3, 1, 1e6, 1e18), {False, name == "batch_norm"}):
        shape = (3, 4, size)
        inputs = draw(name, shape, std, std, "f4")
        wanted = definition(name, inputs, eps, training)
        found = run(name, inputs, eps=eps, **parameters_of(name, shape, training))
        assert np.abs(found["y"] - wanted).max() <= 2e-6 * np.abs(wanted).max()
        assert np.isfinite(found["mean"]).all()


@pytest.mark.parametrize(
    ("size", "dtype", "eps", "in_fp64"),
    [
        (64, "f4", 1e-5, True),
        (65, "f4", 1e-5, False),
        (65, "f2", 1e-5, False),
        (8192, "f4", 1e-5, False),
        (8193, "f4", 1e-5, True),
        (96, "f8", 1e-5, True),
        (96, "f4", 1e-39, True),
        (96, "f4", 1e39, True),
    ],
)
def test_fp32_computes_where_it_is_good_enough(size: int, dtype: str, eps: float, in_fp64: bool) -> None:
    operation = OPERATIONS["layer_norm"]
    task = operation.task({"x": np.zeros((2, size), dtype)}, {"eps": eps})
    assert computes_in_fp64(task.layout, task.x.dtype) is in_fp64


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layer_norm", (2, 1_000_000)),
        ("rms_norm", (2, 1_000_000)),
        ("group_norm", (1, 64, 56, 56)),
        ("group_norm", (1, 3, 224, 224)),
        ("instance_norm", (1, 3, 512, 512)),
    ],
)
def test_a_row_of_hundreds_of_thousands_is_as_accurate(name: str, shape: tuple[int, ...]) -> None:
    for mean in (0, 1e4):
        inputs = draw(name, shape, mean, 1, "f4")
        wanted = definition(name, inputs, 1e-5, training=False)
        error = np.abs(run(name, inputs, **parameters_of(name, shape, training=False))["y"] - wanted).max()
        allowed = 2 * np.abs(by_torch(name, inputs, 1e-5, training=False) - wanted).max()
        assert error <= allowed + 2 * np.spacing(np.abs(wanted).max().astype("f4"))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
def test_a_row_beyond_fp32_and_one_that_is_not_finite_change_no_bit_of_the_others(name: str) -> None:
    shape = (40, 768) if name in PER_ROW else (40, 4, 300)
    more = parameters_of(name, shape, training=False)
    inputs = draw(name, shape, 0, 1, "f4")
    clean = run(name, inputs, **more)
    inputs["x"][1] *= np.float32(1e30)
    inputs["x"][2].flat[3] = np.nan
    large_alone = run(name, inputs | {"x": inputs["x"][1:2]}, **more)
    found = run(name, inputs, **more)
    for output, array in found.items():
        others = np.delete(np.arange(40), [1, 2])
        assert array[others].tobytes() == clean[output][others].tobytes()
        assert array[1].tobytes() == large_alone[output][0].tobytes()
    wanted = definition(name, inputs | {"x": inputs["x"][1:2]}, 1e-5, training=False)
    np.testing.assert_allclose(found["y"][1:2], wanted.astype("f4"), rtol=2e-6, atol=2e-6)
    assert np.isnan(found["y"][2]).any()


def test_fp16_running_statistics_are_moved_in_more_than_fp16() -> None:
    x = np.array([[0.25], [0.75]], "f2")
    before = {"running_mean": np.array([0.1], "f2"), "running_var": np.array([1], "f2")}
    found = run("batch_norm", {"x": x, **before}, training=True, momentum=0.1)
    assert found["running_mean"].dtype == np.float32
    assert found["running_mean"][0] == pytest.approx(0.9 * float(np.float16(0.1)) + 0.05, rel=1e-7)


@pytest.mark.parametrize("scale", [1e18, 1e20, 1e30, 1e38])
@pytest.mark.parametrize("name", PER_ROW)
def test_numbers_whose_squares_fp32_cannot_hold_are_normalised_all_the_same(name: str, scale: float) -> None:
    inputs = draw(name, (4, 96), 0, 1, "f4")
    inputs["x"] = inputs["x"] / np.abs(inputs["x"]).max() * np.float32(scale)
    wanted = definition(name, inputs, 1e-5, training=False)
    np.testing.assert_allclose(run(name, inputs)["y"], wanted.astype("f4"), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", PER_ROW)
def test_numbers_whose_squares_fp64_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"too large or too far apart for {name}: their squares are beyond"):
        run(name, {"x": np.array([[1e200, -1e200, 1.0]])})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [SHORT, MIDDLE])
@pytest.mark.parametrize("name", PER_ROW)
def test_what_is_not_finite_spoils_its_own_row_alone(name: str, size: int, value: float) -> None:
    x = np.random.default_rng(0).standard_normal((3, size)).astype("f4")
    clean = run(name, {"x": x})["y"]
    x[1, 3] = value
    y = run(name, {"x": x})["y"]
    assert np.isnan(y[1]).any()
    assert y[[0, 2]].tobytes() == clean[[0, 2]].tobytes()


@pytest.mark.parametrize("size", [SHORT, MIDDLE])
@pytest.mark.parametrize("name", OPERATIONS)
def test_fp16_is_rounded_once_from_fp32_or_more(name: str, size: int) -> None:
    shape = (3, 4, size)
    inputs = draw(name, shape, 3, 2, "f2")
    more = {"num_groups": 2} if name == "group_norm" else {}
    half = run(name, inputs, **more)
    in_fp64 = size == SHORT or name == "batch_norm"
    more_exact = run(name, {key: array.astype("f8" if in_fp64 else "f4") for key, array in inputs.items()}, **more)
    assert half["y"].dtype == np.float16
    assert half["y"].tobytes() == more_exact["y"].astype("f2").tobytes()
    assert half["inv_std"].dtype == np.float32
    assert half["inv_std"].tobytes() == more_exact["inv_std"].astype("f4").tobytes()


def laid(array: Array, offset: int) -> Array:
    """The same array, so many bytes past a boundary of 128: a request's tensor lies wherever its header ends."""
    memory = np.zeros(array.nbytes + 256, "u1")
    start = -memory.ctypes.data % 128 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "instance_norm"])
@pytest.mark.parametrize("size", [5, 65, 300, 1001])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_row_has_the_same_bits_alone_among_others_anywhere_in_memory_and_with_more_threads(
    name: str, size: int, dtype: str
) -> None:
    shape = (60, size) if name in PER_ROW else (60, 4, size)
    inputs = draw(name, shape, 3, 1, dtype)
    more = {"num_groups": 2} if name == "group_norm" else {}
    together = run(name, inputs, **more)

    def differ(x: Array, rows: slice) -> int:
        found = run(name, inputs | {"x": x}, **more)
        return sum(found[output].tobytes() != array[rows].tobytes() for output, array in together.items())

    for offset in (8, 16, 24, 40):
        assert differ(laid(inputs["x"], offset), slice(None)) == 0
    for row in range(60):
        assert differ(laid(inputs["x"][row : row + 1], 8 * (row % 8)), slice(row, row + 1)) == 0
    for count in (2, 3, 17):
        assert differ(laid(inputs["x"][7 : 7 + count], 24), slice(7, 7 + count)) == 0
    operation = OPERATIONS[name]
    task = operation.task(inputs, more)
    assert Operator(4).run(task)["y"].tobytes() == together["y"].tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_training_moves_the_running_statistics_as_torch_does(shape: tuple[int, ...], momentum: float) -> None:
    inputs = draw("batch_norm", shape, 2, 3, "f8")
    found = run("batch_norm", inputs, training=True, momentum=momentum)
    mean, variance = (torch.from_numpy(inputs[key].copy()) for key in ("running_mean", "running_var"))
    F.batch_norm(torch.from_numpy(inputs["x"]), mean, variance, training=True, momentum=momentum)
    np.testing.assert_allclose(found["running_mean"], mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(found["running_var"], variance.numpy(), rtol=1e-12)
    begun = run("batch_norm", {"x": inputs["x"]}, training=True)
    module = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    module(torch.from_numpy(inputs["x"].reshape(shape[0], 3, -1)))
    np.testing.assert_allclose(begun["running_mean"], module.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(begun["running_var"], module.running_var.numpy(), rtol=1e-12)


def test_a_row_of_batch_norm_in_training_depends_on_the_others_as_layer_norms_never_does() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype("f4")
    changed = x.copy()
    changed[3] += 1
    for name, moves, parameters in (("layer_norm", False, {}), ("batch_norm", True, {"training": True})):
        before, after = (run(name, {"x": each}, **parameters)["y"][:3] for each in (x, changed))
        assert (before.tobytes() != after.tobytes()) is moves


X = np.zeros((2, 6, 4), "f4")


@pytest.mark.parametrize(
    ("name", "inputs", "parameters", "words"),
    [
        ("layer_norm", {"weight": np.zeros(5, "f4")}, {}, r"weight has shape \[5\], it must be \[4\]"),
        ("layer_norm", {"bias": np.zeros((6, 4), "f4")}, {}, r"bias has shape \[6, 4\], it must be \[4\]"),
        ("layer_norm", {"weight": np.zeros(24, "f4")}, {"axis": 1}, r"weight has shape \[24\], it must be \[6, 4\]"),
        ("layer_norm", {}, {"axis": 3}, r"axis is 3, for x of shape \[2, 6, 4\] it must be from -3 to 2"),
        ("rms_norm", {}, {"axis": -4}, "axis is -4, for x"),
        ("layer_norm", {}, {"axis": 1.0}, "axis is 1.0, it must be an integer"),
        ("layer_norm", {}, {"eps": 0}, "eps is 0.0, it must be positive and finite"),
        ("layer_norm", {}, {"eps": -1e-5}, "eps is -1e-05, it must be positive and finite"),
        ("layer_norm", {}, {"eps": float("inf")}, "eps is inf, it must be positive and finite"),
        ("layer_norm", {}, {"eps": float("nan")}, "eps is nan, it must be positive and finite"),
        ("layer_norm", {}, {"eps": 10**400}, "eps is inf, it must be positive and finite"),
        ("layer_norm", {}, {"eps": True}, "eps is true, it must be a number"),
        ("layer_norm", {}, {"eps": "1e-5"}, "eps is '1e-5', it must be a number"),
        ("layer_norm", {}, {"epsilon": 1e-5}, "layer_norm has no parameter 'epsilon', its parameters are eps, axis"),
        ("layer_norm", {}, {"training": True}, "layer_norm has no parameter 'training'"),
        ("group_norm", {}, {}, "group_norm needs the parameter num_groups"),
        ("group_norm", {}, {"num_groups": 4}, "num_groups is 4, it must divide the 6 channels"),
        ("group_norm", {}, {"num_groups": 0}, "num_groups is 0, it must be at least 1"),
        ("group_norm", {"weight": np.zeros(2, "f4")}, {"num_groups": 2}, r"weight has shape \[2\], it must be \[6\]"),
        ("group_norm", {"x": np.zeros(6, "f4")}, {"num_groups": 2}, r"x has shape \[6\], group_norm takes \(N, C"),
        ("instance_norm", {"x": np.zeros((2, 6), "f4")}, {}, r"x has shape \[2, 6\], instance_norm takes"),
        ("batch_norm", {}, {}, "batch_norm needs running_mean unless training is true"),
        ("batch_norm", {"running_mean": np.zeros(6, "f4")}, {}, "batch_norm needs running_var unless"),
        (
            "batch_norm",
            {"running_mean": np.zeros(6, "f4"), "running_var": np.array([1, 1, -0.5, 1, 1, 1], "f4")},
            {},
            "running_var has -0.5 in it, a variance is finite and at least 0",
        ),
        (
            "batch_norm",
            {"running_mean": np.full(6, np.inf, "f4"), "running_var": np.ones(6, "f4")},
            {},
            "running_mean has inf in it, a mean is finite",
        ),
        (
            "batch_norm",
            {"running_mean": np.zeros(6, "f4"), "running_var": np.array([1, 1, np.nan, 1, 1, 1], "f4")},
            {},
            "running_var has nan in it",
        ),
        ("batch_norm", {"running_mean": np.zeros(4, "f4")}, {}, r"running_mean has shape \[4\], it must be \[6\]"),
        ("batch_norm", {}, {"training": 1}, "training is 1, it must be true or false"),
        ("batch_norm", {}, {"training": True, "momentum": 1.5}, "momentum is 1.5, it must be from 0 to 1"),
        ("batch_norm", {"x": np.zeros((1, 6), "f4")}, {"training": True}, "need two values a channel"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(
    name: str, inputs: Arrays, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        run(name, {"x": X} | inputs, **parameters)
