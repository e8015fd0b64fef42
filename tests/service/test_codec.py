import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service import codec
from service.errors import InvalidInputError, TooManyRowsError
from service.manifest import Manifest
from service.protocol import DATATYPES, Array, InferenceRequest
from service.request import parse


class Sent(NamedTuple):
    """A body, and how much of it its header says is JSON."""

    body: bytes
    length: int | None = None

    @property
    def request(self) -> InferenceRequest:
        return parse(self.body, self.length)


def decode(sent: Sent, manifest: Manifest) -> dict[str, Array]:
    binary = memoryview(sent.body)[sent.length or 0 :]
    return {
        each.name: codec.model_reader(each, tensor)(binary) for each, tensor in codec.inputs_of(sent.request, manifest)
    }


ManifestOf = Callable[..., Manifest]
JSON_DATATYPES = [name for name in DATATYPES if name != "FP16"]


def model(manifest_of: ManifestOf, *inputs: tuple[str, str, list[int]], **fields: Any) -> Manifest:
    """A model that takes these inputs and gives them back."""
    tensors = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in inputs]
    return manifest_of(inputs=tensors, outputs=tensors, **fields)


def sent_as_json(datatype: str, shape: list[int], data: Any, name: str = "x", **more: Any) -> Sent:
    tensor = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return Sent(orjson.dumps({"inputs": [tensor], **more}, option=orjson.OPT_SERIALIZE_NUMPY))


def sent_as_binary(arrays: dict[str, Array], datatypes: dict[str, str], **more: Any) -> Sent:
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": datatypes[name],
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": array.nbytes},
                }
                for name, array in arrays.items()
            ],
            **more,
        }
    ).encode()
    return Sent(header + b"".join(array.tobytes() for array in arrays.values()), len(header))


def values_of(datatype: str) -> st.SearchStrategy[Any]:
    finite = {"allow_nan": False, "allow_infinity": False} if DATATYPES[datatype].kind == "f" else {}
    return hnp.from_dtype(DATATYPES[datatype], **finite)


def arrays_of(datatype: str) -> st.SearchStrategy[Array]:
    shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)
    return hnp.arrays(DATATYPES[datatype], shapes, elements=values_of(datatype))


@given(st.data())
@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_json_carries_every_finite_value_exactly_flat_and_nested(
    manifest_of: ManifestOf, datatype: str, data: st.DataObject
) -> None:
    array = data.draw(arrays_of(datatype))
    manifest = model(manifest_of, ("x", datatype, [-1] * array.ndim))
    for sent in (array, array.ravel()):
        whole = sent_as_json(datatype, list(array.shape), sent)
        decoded = decode(whole, manifest)["x"]
        assert (decoded.dtype, decoded.shape) == (array.dtype, array.shape)
        assert decoded.tobytes() == array.tobytes()
        answer = codec.encode(codec.wanted(whole.request, "m", manifest.outputs), "m", "1", {"x": decoded})
        (output,) = json.loads(b"".join(answer.text))["outputs"]
        again = np.array(output["data"], DATATYPES[datatype]).reshape(output["shape"])
        assert again.tobytes() == array.tobytes()
        assert answer.tensors == []


@given(st.data())
@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_binary_carries_every_bit_both_ways(manifest_of: ManifestOf, datatype: str, data: st.DataObject) -> None:
    array = data.draw(arrays_of(datatype))
    if array.dtype.kind == "f":
        array.flat[0] = np.nan
    manifest = model(manifest_of, ("x", datatype, [-1] * array.ndim))
    # An id of any length puts the tensor at any alignment.
    whole = sent_as_binary(
        {"x": array}, {"x": datatype}, id="i" * data.draw(st.integers(0, 9)), parameters={"binary_data_output": True}
    )
    decoded = decode(whole, manifest)["x"]
    assert decoded.flags.aligned
    assert (decoded.dtype, decoded.shape, decoded.tobytes()) == (array.dtype, array.shape, array.tobytes())
    answer = codec.encode(codec.wanted(whole.request, "m", manifest.outputs), "m", "1", {"x": decoded})
    header = json.loads(b"".join(answer.text))
    assert header["outputs"][0]["parameters"] == {"binary_data_size": array.nbytes}
    assert b"".join(answer.tensors) == array.tobytes()


def test_json_and_binary_inputs_mix_and_come_in_any_order(manifest_of: ManifestOf) -> None:
    manifest = model(manifest_of, ("a", "INT64", [-1, 2]), ("b", "FP32", [-1, 1]), ("c", "BOOL", [-1]))
    header = json.dumps(
        {
            "inputs": [
                {"name": "c", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}},
                {"name": "a", "datatype": "INT64", "shape": [2, 2], "data": [[2**53 + 1, -1], [0, 2**63 - 1]]},
                {"name": "b", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8}},
            ]
        }
    ).encode()
    body = header + b"\x01\x00" + struct.pack("<2f", 0.5, -2)
    arrays = decode(Sent(body, len(header)), manifest)
    assert list(arrays) == ["a", "b", "c"]  # the manifest's order, so that equal requests merge
    assert arrays["a"].tolist() == [[2**53 + 1, -1], [0, 2**63 - 1]]
    assert arrays["b"].tolist() == [[0.5], [-2]]
    assert arrays["c"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("shape", "batch_axis", "raw", "decoded_shape"),
    [([-1, 3], 0, 12, (1, 3)), ([-1, -1], 0, 20, (1, 5)), ([-1, -1, 2], 0, 24, (1, 3, 2)), ([-1], None, 8, (2,))],
)
def test_a_raw_body_is_one_row_of_the_one_input(
    manifest_of: ManifestOf, shape: list[int], batch_axis: int | None, raw: int, decoded_shape: tuple[int, ...]
) -> None:
    manifest = model(manifest_of, ("x", "FP32", shape), batch_axis=batch_axis)
    whole = Sent(bytes(raw), 0)
    decoded = decode(whole, manifest)["x"]
    assert decoded.shape == decoded_shape
    ((_, is_binary),) = codec.wanted(whole.request, "m", manifest.outputs).outputs
    assert is_binary


@pytest.mark.parametrize(
    "inputs", [[("x", "FP32", [-1, -1, -1])], [("x", "FP32", [-1, 3]), ("z", "FP32", [-1, 3])]], ids=["two free", "two"]
)
def test_a_raw_body_that_could_mean_two_things_is_refused(
    manifest_of: ManifestOf, inputs: list[tuple[str, str, list[int]]]
) -> None:
    with pytest.raises(InvalidInputError, match="a raw body fits a model of one input with one variable size"):
        decode(Sent(bytes(24), 0), model(manifest_of, *inputs))


@pytest.mark.parametrize("size", [3, 7, 0])
def test_a_raw_body_that_is_no_whole_number_of_elements_is_refused(manifest_of: ManifestOf, size: int) -> None:
    with pytest.raises(InvalidInputError, match=r"input x has"):
        decode(Sent(bytes(size), 0), model(manifest_of, ("x", "FP32", [-1, -1])))


@pytest.mark.parametrize(
    ("datatype", "value", "words"),
    [
        ("INT64", 1.5, "has 1.5 at position 0, it must be an integer"),
        ("INT64", True, "has true at position 0, it must be an integer"),
        ("INT64", 2**64 - 1, "outside -9223372036854775808 to 9223372036854775807"),
        ("INT8", 128, "has 128 in it, which is outside -128 to 127"),
        ("UINT8", -1, "has -1 in it, which is outside 0 to 255"),
        ("BOOL", 1, "has 1 at position 0, it must be true or false"),
        ("FP32", 3.5e38, r"has 3.5e\+38 at position 0, too large"),
        ("FP16", 1.0, "is FP16, which JSON cannot carry exactly: use binary"),
    ],
)
def test_a_json_value_the_datatype_does_not_hold_is_refused(
    manifest_of: ManifestOf, datatype: str, value: Any, words: str
) -> None:
    whole = sent_as_json(datatype, [1, 1], [value])
    with pytest.raises(InvalidInputError, match=words):
        decode(whole, model(manifest_of, ("x", datatype, [-1, 1])))


def test_an_integer_is_a_number(manifest_of: ManifestOf) -> None:
    decoded = decode(sent_as_json("FP32", [1, 2], [1, 2]), model(manifest_of, ("x", "FP32", [-1, 2])))
    assert decoded["x"].tolist() == [[1.0, 2.0]]


def test_a_binary_bool_is_0_or_1(manifest_of: ManifestOf) -> None:
    whole = sent_as_binary({"x": np.array([1, 2], "u1")}, {"x": "BOOL"})
    with pytest.raises(InvalidInputError, match="has a byte of 2, a BOOL is 0 or 1"):
        decode(whole, model(manifest_of, ("x", "BOOL", [-1])))


def test_inputs_have_equally_many_rows(manifest_of: ManifestOf) -> None:
    manifest = model(manifest_of, ("a", "FP32", [-1, 1]), ("b", "FP32", [-1, 1]))
    arrays = {"a": np.zeros((2, 1), "f4"), "b": np.zeros((3, 1), "f4")}
    with pytest.raises(InvalidInputError, match="differ in rows: a 2, b 3"):
        decode(sent_as_binary(arrays, {"a": "FP32", "b": "FP32"}), manifest)


@pytest.mark.parametrize(
    ("bounds", "values", "words"),
    [
        ({"minimum": 0, "maximum": 9}, [0, 9, 10], "input x has 10.0 in it, it must be at least 0 and at most 9"),
        ({"minimum": 0}, [-1, 0, 0], "input x has -1.0 in it, it must be at least 0$"),
        ({"maximum": 9}, [10, 0, 0], "input x has 10.0 in it, it must be at most 9$"),
        ({"minimum": 0}, [0, float("nan"), 0], "input x has nan in it"),
    ],
)
def test_bounds_of_the_manifest_are_checked(
    manifest_of: ManifestOf, bounds: dict[str, Any], values: list[float], words: str
) -> None:
    manifest = manifest_of(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, -1], **bounds}])
    with pytest.raises(InvalidInputError, match=words):
        decode(sent_as_binary({"x": np.array([values], "f4")}, {"x": "FP32"}), manifest)
    inside = np.full((1, 3), 5, "f4")
    assert decode(sent_as_binary({"x": inside}, {"x": "FP32"}), manifest)["x"].tolist() == [[5, 5, 5]]


def test_bounds_are_told_in_full(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(inputs=[{"name": "x", "datatype": "INT64", "shape": [-1, 1], "maximum": 1234567}])
    with pytest.raises(InvalidInputError, match="has 1234568 in it, it must be at most 1234567$"):
        decode(sent_as_json("INT64", [1, 1], [1234568]), manifest)


def test_a_scalar_is_a_list_of_one(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(batch_axis=None, inputs=[{"name": "x", "datatype": "FP32", "shape": []}])
    assert decode(sent_as_json("FP32", [], [7]), manifest)["x"].shape == ()
    with pytest.raises(InvalidInputError, match=r"has \[7\] at position 0, it must be a number"):
        decode(sent_as_json("FP32", [], [[7]]), manifest)


def test_rows_above_the_models_cap_are_another_error_than_bad_input(manifest_of: ManifestOf) -> None:
    whole = sent_as_binary({"x": np.zeros((9, 3), "f4")}, {"x": "FP32"})
    with pytest.raises(TooManyRowsError, match="9 rows, model m takes at most 8"):
        decode(whole, manifest_of())


def test_without_a_batch_axis_rows_are_not_capped(manifest_of: ManifestOf) -> None:
    whole = sent_as_binary({"x": np.zeros((9, 3), "f4")}, {"x": "FP32"})
    assert decode(whole, manifest_of(batch_axis=None))["x"].shape == (9, 3)


STATEFUL = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "h", "datatype": "FP32", "shape": [-1, 2], "optional": True},
    ]
}


def test_an_optional_input_may_be_left_out_a_required_one_may_not(manifest_of: ManifestOf) -> None:
    manifest, x, h = manifest_of(**STATEFUL), np.ones((3, 5), "f4"), np.ones((3, 2), "f4")
    datatypes = {"x": "FP32", "h": "FP32"}
    assert list(decode(sent_as_binary({"h": h, "x": x}, datatypes), manifest)) == ["x", "h"]
    assert list(decode(sent_as_binary({"x": x}, datatypes), manifest)) == ["x"]
    with pytest.raises(InvalidInputError, match=r"inputs are \['h'\], model m takes \['x', 'h \(optional\)'\]"):
        decode(sent_as_binary({"h": h}, datatypes), manifest)
    with pytest.raises(InvalidInputError, match="differ in rows: x 3, h 1"):
        decode(sent_as_binary({"x": x, "h": h[:1]}, datatypes), manifest)


def test_the_optional_inputs_are_parts_of_one_state_and_come_all_or_none(manifest_of: ManifestOf) -> None:
    state = {"datatype": "FP32", "shape": [-1, 2], "optional": True}
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}, {"name": "h", **state}, {"name": "c", **state}]
    x, h = np.ones(3, "f4"), np.ones((3, 2), "f4")
    datatypes = {"x": "FP32", "h": "FP32", "c": "FP32"}
    for sent in ({"x": x}, {"x": x, "h": h, "c": h}):
        assert decode(sent_as_binary(sent, datatypes), manifest_of(inputs=inputs)).keys() == sent.keys()
    with pytest.raises(InvalidInputError, match="input h comes without c: model m takes all of its optional inputs"):
        decode(sent_as_binary({"x": x, "h": h}, datatypes), manifest_of(inputs=inputs))


def test_an_input_sent_twice_is_refused_though_others_are_optional(manifest_of: ManifestOf) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    whole = Sent(orjson.dumps({"inputs": [tensor, tensor]}))
    with pytest.raises(InvalidInputError, match=r"inputs are \['x', 'x'\].* each once"):
        decode(whole, manifest_of(**STATEFUL))


def test_a_raw_body_is_the_one_input_that_is_not_optional(manifest_of: ManifestOf) -> None:
    whole = Sent(np.arange(7, dtype="f4").tobytes(), 0)
    assert decode(whole, manifest_of(**STATEFUL))["x"].tolist() == [[0, 1, 2, 3, 4, 5, 6]]


# ---- outputs ---------------------------------------------------------------------------------------------------------

TWO_OUTPUTS = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in ("y", "z")]


def outputs_of(answer: codec.Answer) -> list[dict[str, Any]]:
    return json.loads(b"".join(answer.text))["outputs"]


def test_only_the_outputs_asked_for_are_sent_in_that_order_each_in_its_form(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(outputs=TWO_OUTPUTS)
    wanted = [{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}]
    whole = sent_as_json("FP32", [1, 3], [1, 2, 3], outputs=wanted, parameters={"binary_data_output": True}, id="7")
    arrays = {"y": np.array([1.5], "f4"), "z": np.array([2.5], "f4")}
    answer = codec.encode(codec.wanted(whole.request, "m", manifest.outputs), "m", "1", arrays)
    assert outputs_of(answer) == [
        {"name": "z", "datatype": "FP32", "shape": [1], "data": [2.5]},
        {"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
    ]
    assert b"".join(answer.tensors) == struct.pack("<f", 1.5)
    assert json.loads(b"".join(answer.text))["id"] == "7"


def test_an_output_on_request_is_sent_when_it_is_named_and_else_not(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(outputs=[TWO_OUTPUTS[0], TWO_OUTPUTS[1] | {"on_request": True}])
    arrays = {"y": np.array([1.5], "f4"), "z": np.array([2.5], "f4")}

    def names(**more: Any) -> list[str]:
        wanted = codec.wanted(sent_as_json("FP32", [1, 3], [1, 2, 3], **more).request, "m", manifest.outputs)
        return [output["name"] for output in outputs_of(codec.encode(wanted, "m", "1", arrays))]

    assert names() == ["y"]
    assert names(outputs=[{"name": "z"}]) == ["z"]
    assert names(outputs=[{"name": "y"}, {"name": "z"}]) == ["y", "z"]


def test_a_part_of_a_batch_is_sent_row_by_row(manifest_of: ManifestOf) -> None:
    whole = sent_as_json("FP32", [1, 3], [1, 2, 3])
    part = np.arange(12, dtype="f4").reshape(3, 4)[1:2, :3]  # not contiguous
    answer = codec.encode(codec.wanted(whole.request, "m", manifest_of().outputs), "m", "1", {"y": part})
    assert outputs_of(answer)[0]["data"] == [4, 5, 6]


def test_fp16_goes_out_as_binary_only(manifest_of: ManifestOf) -> None:
    manifest = manifest_of(outputs=[{"name": "y", "datatype": "FP16", "shape": [-1]}])
    with pytest.raises(InvalidInputError, match="output y is FP16, .* ask for binary_data"):
        codec.wanted(sent_as_json("FP32", [1, 3], [1, 2, 3]).request, "m", manifest.outputs)
    binary = sent_as_json("FP32", [1, 3], [1, 2, 3], parameters={"binary_data_output": True})
    assert codec.wanted(binary.request, "m", manifest.outputs).outputs[0][1] is True


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_never_silently_null(manifest_of: ManifestOf, value: float) -> None:
    manifest, arrays = manifest_of(), {"y": np.array([[1, value, 3]], "f4")}

    def answer(**parameters: Any) -> codec.Answer:
        whole = sent_as_json("FP32", [1, 3], [1, 2, 3], parameters=parameters)
        return codec.encode(codec.wanted(whole.request, "m", manifest.outputs), "m", "1", arrays)

    with pytest.raises(InvalidInputError, match="output y has a value that is not finite"):
        answer()
    assert outputs_of(answer(nonfinite="null"))[0]["data"] == [1, None, 3]
    binary = answer(binary_data_output=True)
    assert b"".join(binary.tensors) == arrays["y"].tobytes()
