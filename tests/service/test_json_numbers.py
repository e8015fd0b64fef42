"""Large JSON tensors read and written in pieces: the same values, the same errors, nothing of the client's believed."""

import json
from typing import Any

import numpy as np
import orjson
import pytest

from service import codec
from service.errors import InvalidInputError
from service.json_numbers import PIECE_BYTES, cut_out, elements, pieces, written
from service.off_the_loop import LARGE_BYTES, SIMD_JSON_COSTS
from service.protocol import JsonNumbers
from service.request import parse

ROWS = 3000  # of 20: some hundred kilobytes of text
X = np.random.default_rng(0).standard_normal((ROWS, 20))


def body_of(data: Any, shape: tuple[int, ...] = X.shape, datatype: str = "FP64", **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), "data": data}
    text = json.dumps({"id": 'say "data": [1, 2]', "inputs": [tensor], **more}).encode()
    assert SIMD_JSON_COSTS * len(text) > LARGE_BYTES
    return text


def array_of(body: bytes) -> np.ndarray:
    (sent,) = parse(body, None).inputs
    assert isinstance(sent.data, JsonNumbers)
    assert len(sent.data.cuts) > 2  # more than one piece
    return codec.reader(sent)(b"")


@pytest.mark.parametrize(
    "data", [X.tolist(), X.ravel().tolist(), X.reshape(10, -1).tolist()], ids=["nested", "flat", "long"]
)
def test_a_large_tensor_has_the_bits_of_a_small_one(data: Any) -> None:
    shape = np.array(data).shape
    body = body_of(data, shape if len(shape) > 1 else X.shape)
    assert array_of(body).tobytes() == X.tobytes()
    assert parse(body, None).id == 'say "data": [1, 2]'


def test_spaces_and_newlines_are_no_matter() -> None:
    tensor = {"name": "x", "datatype": "FP64", "shape": list(X.shape), "data": X.tolist()}
    assert array_of(json.dumps({"inputs": [tensor]}, indent=1).encode()).tobytes() == X.tobytes()


def test_integers_stay_exact_above_2_to_the_53() -> None:
    x = 2**53 + np.arange(60_000)
    assert array_of(body_of(x.tolist(), x.shape, "INT64")).tobytes() == x.tobytes()


def test_a_small_tensor_beside_a_large_one_is_left_as_it_is() -> None:
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": list(X.shape), "data": X.tolist()},
        {"name": "y", "datatype": "FP64", "shape": [2], "data": [1, 2]},
    ]
    large, small = parse(json.dumps({"inputs": tensors}).encode(), None).inputs
    assert isinstance(large.data, JsonNumbers)
    assert small.data == [1, 2]


def spoilt(change: Any) -> Any:
    data = X.tolist()
    change(data)
    return data


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (body_of(spoilt(lambda data: data[-1].pop())), "x is ragged"),
        (body_of(spoilt(lambda data: data.pop())), r"x has 59980 values, its shape \[3000, 20\] makes 60000"),
        (body_of(spoilt(lambda data: data.append([0] * 20))), "x has more values than the 60000"),
        (body_of(spoilt(lambda data: data[2999].__setitem__(19, True))), "x has true at position 59999"),
        (body_of(spoilt(lambda data: data[2999].__setitem__(19, None))), "x has null at position 59999"),
        (body_of([*X.ravel().tolist()[:-1], [1]]), r"x has \[1\] at position 59999, it must be a number"),
        (body_of(X.ravel().tolist(), (10**6, 10**6)), r"x has 60000 values, its shape"),
        (body_of(X.tolist()).replace(b"]]}", b"],]}"), "the data of input x is not JSON"),
        (body_of(X.ravel().tolist()).replace(b"]}]}", b",]}]}"), "the data of input x is not JSON"),
        (body_of(X.ravel().tolist()).replace(b", ", b",, ", 30_000), "not JSON"),
        (body_of(X.tolist()).replace(b"0.", b"NaN", 1), "not JSON"),
    ],
    ids=["ragged", "short", "long", "bool", "null", "mixed", "shape", "comma", "last comma", "two commas", "nan"],
)
def test_what_is_wrong_in_a_large_tensor_is_said_as_in_a_small_one(body: bytes, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        codec.reader(parse(body, None).inputs[0])(b"")


def test_a_text_among_the_numbers_is_left_to_the_ordinary_way() -> None:
    data = [*X.ravel().tolist(), '"data": [']
    with pytest.raises(InvalidInputError, match="bytes of the body are no list of numbers under data"):
        parse(body_of(data, (60_001,)), None)
    data = data[-40_001:]
    with pytest.raises(InvalidInputError, match=r"x has '\"data\": \[' at position 40000"):
        codec.reader(parse(body_of(data, (40_001,)), None).inputs[0])(b"")


def test_a_client_cannot_name_what_was_cut_out() -> None:
    first, second = (cut_out(body_of(X.tolist()), 10**9, "data")[1] for _ in range(2))
    assert first.keys() != second.keys()
    (name,) = first
    with pytest.raises(InvalidInputError, match="the data of input 'x'"):
        parse(body_of(name, more=X[: len(X) * 2 // 3].tolist()), None)


def test_a_list_that_never_ends_is_no_json() -> None:
    with pytest.raises(InvalidInputError, match="not JSON"):
        parse(body_of(X.tolist())[:-4], None)


@pytest.mark.parametrize(
    "array", [X, X.ravel(), X.astype("f4"), X[:1], X.reshape(2, 3, -1)], ids=["2", "1", "f4", "row", "3"]
)
def test_what_is_written_in_pieces_is_what_orjson_writes(array: np.ndarray) -> None:
    whole = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    assert b"".join(written(np.ascontiguousarray(array))) == whole


def test_pieces_are_small() -> None:
    _, (numbers,) = (cut := cut_out(body_of(X.tolist()), 10**9, "data"))[0], cut[1].values()
    found = list(pieces(numbers))
    assert all(len(piece) < 2 * PIECE_BYTES for piece in found)
    assert [row for piece in found for row in elements(piece)] == X.tolist()
