"""Numbers read straight into arrays: what orjson, lists and checks would have made of them, bit for bit."""

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service import codec, json_document
from service.errors import InvalidInputError
from service.json_document import MOST_LISTS, read_document
from service.protocol import JsonNumbers
from service.request import parse

DATATYPES = ["FP32", "FP64", "FP16", "INT8", "INT64", "UINT8", "UINT64", "BOOL", "FP8", ""]
PAD = " " * json_document.LEAST_BYTES


def body_of(*tensors: Any, **more: Any) -> bytes:
    return (json.dumps({"inputs": list(tensors), **more}) + PAD).encode()


def tensor_of(data: Any, shape: Any, datatype: str = "FP32", name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def outcome(body: bytes) -> Any:
    """The arrays, or the words of the error."""
    try:
        inputs = parse(body, None).inputs
        for sent in inputs:
            if sent.datatype not in codec.DATATYPES:
                return sent.datatype
            codec.check_data(sent)
        arrays = [codec.reader(sent)(b"") for sent in inputs]
    except InvalidInputError as error:
        return str(error)
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def outcome_by_orjson(body: bytes) -> Any:
    with patch.object(json_document, "LEAST_BYTES", len(body) + 1):
        return outcome(body)


numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 1e39, 1e-46, 2**53 + 1, 2**63, -(2**63), 3.4028236e38, 16777217]),
)
elements = st.one_of(numbers, numbers, numbers, st.sampled_from([True, None, "1", [1], [], {}]))


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly sound ones, flat and nested; some ragged, some of another shape, some with what is no number."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    data: Any = draw(st.lists(elements if draw(st.booleans()) else numbers, min_size=64, max_size=64))
    count = int(np.prod(shape, dtype=int))
    data = data[: count + draw(st.sampled_from([0, 0, 0, 0, 1]))]
    if draw(st.booleans()):
        for size in reversed(shape[1:]):
            data = [data[start : start + size] for start in range(0, len(data), max(1, size))]
    if data and isinstance(data[-1], list) and draw(st.booleans()):
        data[-1] = data[-1][: draw(st.integers(0, 4))]
    return tensor_of(data, shape, draw(st.sampled_from(DATATYPES)))


@settings(deadline=None)
@given(st.lists(tensors(), min_size=1, max_size=2))
@example([tensor_of([[1], [2, 3]], [2, 2])])
@example([tensor_of([1, [2], 3], [3])])
@example([tensor_of([[1, 2], [[], [3, 4]]], [2, 2])])
@example([tensor_of([[[1, 2]]], [1, 2])])
def test_every_body_is_read_as_orjson_and_the_checks_behind_it_read_it(sent: list[dict[str, Any]]) -> None:
    body = body_of(*sent)
    assert outcome(body) == outcome_by_orjson(body)


X = np.random.default_rng(0).standard_normal((4, 8, 16)).astype("f4")


@pytest.mark.parametrize("data", [X.ravel().tolist(), X.tolist()], ids=["flat", "nested"])
@pytest.mark.parametrize("more", [{}, {"id": "a [ b"}, {"parameters": {"binary_data_output": True}}])
def test_what_is_sound_becomes_arrays(data: Any, more: dict[str, Any]) -> None:
    body = body_of(tensor_of(data, list(X.shape)), tensor_of([1], [1], "INT64", "n"), **more)
    document = read_document(memoryview(body))
    assert document is not None
    assert [entry["data"].dtype for entry in document["inputs"]] == [np.float32, np.int64]
    assert document["inputs"][0]["data"].tobytes() == X.tobytes()
    assert document == json.loads(body) | {"inputs": document["inputs"]}


@pytest.mark.parametrize(
    "body",
    [
        body_of(tensor_of([1.5], [1], "INT64")),
        body_of(tensor_of([256], [1], "UINT8")),
        body_of(tensor_of([1e39], [1])),
        body_of(tensor_of([True], [1], "BOOL")),
        body_of(tensor_of([1], [1], "FP16")),
        body_of(tensor_of([1], [1], name='a "b"')),
        body_of(tensor_of(np.zeros((MOST_LISTS, 1)).tolist(), [MOST_LISTS, 1])),
        body_of({"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}),
        body_of(tensor_of([1], [1])).replace(b'"name"', b'"name": "y", "name"'),
        b"\xef\xbb\xbf" + body_of(tensor_of([1], [1])),
        b"[1]" + PAD.encode(),
        body_of(tensor_of([1], [1])) + b"x",
        body_of(tensor_of([1], [1])).strip(),
    ],
    ids=[
        "fraction", "outside", "large", "bool", "half", "escape", "many lists", "binary", "twice", "mark", "list",
        "rest", "short",
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_to_orjson(body: bytes) -> None:
    assert read_document(memoryview(body)) is None


def test_a_body_of_many_short_rows_is_cut_into_pieces_where_it_is_large() -> None:
    rows = np.zeros((20_000, 2), int).tolist()
    (sent,) = parse(body_of(tensor_of(rows, [20_000, 2], "INT64")), None).inputs
    assert isinstance(sent.data, JsonNumbers)
    assert codec.reader(sent)(b"").shape == (20_000, 2)
