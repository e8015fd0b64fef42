"""What a caller wishes, against the example and against what the model takes."""

from typing import Any

import numpy as np
import pytest

from export.errors import ExportError
from export.held_out import Arrays
from export.limits import bounds_of, check_mixed, check_values, extremes, limits_of, row_limit

ARRAYS = {"ids": np.array([[1, 5], [3, 4]]), "x": np.zeros((2, 3, 4), "f4")}


def test_each_size_that_is_wished_for_has_its_place() -> None:
    assert limits_of({"x": [-1, 9, -1], "ids": [256, 7]}, ARRAYS, 0, 256) == {("x", 1): 9, ("ids", 1): 7}
    assert limits_of({"ids": [4, 7]}, ARRAYS, None, None) == {("ids", 0): 4, ("ids", 1): 7}


@pytest.mark.parametrize(
    ("max_shape", "words"),
    [
        ({"idz": [1, 2]}, "max_shape has 'idz' in it, the inputs are ids, x"),
        ({"ids": [2]}, r"max_shape of ids is \[2\], ids of the example has shape \[2, 2\]"),
        ({"ids": [-1, 0]}, r"max_shape of ids is \[-1, 0\], a size is a whole number from 1"),
        ({"ids": [5, 7]}, "max_shape of ids begins with 5, its number of rows, which max_rows limits: say -1"),
    ],
)
def test_a_wish_that_means_nothing_is_told(max_shape: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        limits_of(max_shape, ARRAYS, 0, 256)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"y": (0, 1)}, "bounds has 'y' in it, the inputs are ids, x"),
        ({"ids": (2, 9)}, "ids is to lie between 2 and 9, what is measured on lies between 1 and 5"),
        ({"ids": (9, 2)}, "ids is to lie between 9 and 2"),
        ({"ids": (0.5, 9)}, "bounds of ids are 0.5 and 9, they must be of int64"),
        ({"small": (0, 300)}, "bounds of small are 0 and 300, they must be of uint8"),
    ],
)
def test_bounds_that_exclude_the_example_are_told(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        bounds_of(bounds, ARRAYS | ({"small": np.zeros((2, 1), "u1")} if "small" in bounds else {}))


def test_integers_without_bounds_have_those_of_what_there_is() -> None:
    assert bounds_of({}, ARRAYS) == {"ids": (1, 5)}
    assert bounds_of({"ids": (0, 9), "x": (-1, 1)}, ARRAYS) == {"ids": (0, 9), "x": (-1, 1)}


def test_a_model_is_tried_where_its_integers_are_at_an_end_each_and_together() -> None:
    arrays = ARRAYS | {"more": np.array([[1], [4]])}
    found = extremes(arrays, bounds_of({"ids": (0, 9)}, arrays))
    assert {words: (int(inputs["ids"].max()), int(inputs["more"].max())) for words, inputs in found.items()} == {
        "all of ids is 0": (0, 4),
        "all of ids is 9": (9, 4),
        "all of more is 1": (5, 1),
        "all of more is 4": (5, 4),
        "all of ids is 0 and all of more is 1": (0, 1),
        "all of ids is 9 and all of more is 4": (9, 4),
    }

    def error(inputs: Arrays) -> str:
        return "IndexError" if inputs["ids"].max() + inputs["more"].max() > 12 else ""

    with pytest.raises(ExportError, match="fails where all of ids is 9, and integers are served .*: IndexError"):
        check_values(error, arrays, {"ids": (0, 9), "more": (1, 4)})
    check_values(error, arrays, {"ids": (0, 8), "more": (1, 4)})


def test_a_model_is_tried_on_the_rows_that_were_mixed() -> None:
    def error(inputs: Arrays) -> str:
        return "no such row" if len(inputs["ids"]) == 1 and inputs["ids"].max() < 5 else ""

    check_mixed(error, ARRAYS, 0)
    with pytest.raises(ExportError, match="fails on rows that are mixed of the example's: no such row"):
        check_mixed(error, ARRAYS, 1)


@pytest.mark.parametrize(("seconds_a_row", "limit"), [(0.0001, 256), (0.002, 128), (0.01, 32), (1, 8)])
def test_so_many_rows_as_a_run_has_time_for(seconds_a_row: float, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def run(inputs: Arrays) -> Arrays:
        now[0] += seconds_a_row * len(inputs["ids"])
        return inputs

    monkeypatch.setattr("export.limits.perf_counter", lambda: now[0])
    assert row_limit(run, ARRAYS) == limit
