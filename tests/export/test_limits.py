"""What a caller wishes, against the example and against what the model takes."""

from time import sleep
from typing import Any

import numpy as np
import pytest

from export.errors import ExportError
from export.held_out import Arrays
from export.limits import check_bounds, check_values, limits_of, row_limit

ARRAYS = {"ids": np.array([[1, 5], [3, 4]]), "x": np.zeros((2, 3, 4), "f4")}


def test_each_size_that_is_wished_for_has_its_place() -> None:
    assert limits_of({"x": [-1, 9, -1], "ids": [256, 7]}, ARRAYS, 0, 256) == {("x", 1): 9, ("ids", 1): 7}
    assert limits_of({"ids": [4, 7]}, ARRAYS, None, None) == {("ids", 0): 4, ("ids", 1): 7}


@pytest.mark.parametrize(
    ("max_shape", "words"),
    [
        ({"idz": [1, 2]}, "max_shape has 'idz' in it, the inputs are ids, x"),
        ({"ids": [2]}, r"max_shape of ids is \[2\], ids of the example has shape \[2, 2\]"),
        ({"ids": [-1, 0]}, r"max_shape of ids is \[-1, 0\], a size is at least 1"),
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
    ],
)
def test_bounds_that_exclude_the_example_are_told(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        check_bounds(bounds, ARRAYS)
    check_bounds({"ids": (1, 5), "x": (-1, 1)}, ARRAYS)


def test_a_model_is_tried_at_both_ends_of_its_integers() -> None:
    def error(arrays: Arrays) -> str:
        return "IndexError" if arrays["ids"].max() > 9 else ""

    check_values(error, ARRAYS, {"ids": (0, 9), "x": (-1, 1)})
    with pytest.raises(ExportError, match="ids is to be served up to its bounds, the model fails at 10: IndexError"):
        check_values(error, ARRAYS, {"ids": (0, 10)})


def test_so_many_rows_as_a_run_has_time_for() -> None:
    assert row_limit(lambda inputs: inputs, ARRAYS) == 256
    assert row_limit(lambda inputs: (sleep(0.04), inputs)[1], ARRAYS) <= 64  # 10 ms a row at the least
    assert row_limit(lambda inputs: (sleep(0.5), inputs)[1], ARRAYS) == 8
