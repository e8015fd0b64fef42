"""The sizes a model takes: between its bounds, and equal where they have one name."""

from collections.abc import Callable
from typing import Any

import pytest

from service.errors import InvalidInputError
from service.manifest import Manifest
from service.protocol import RequestInput
from service.sizes import check_equal_sizes, check_shape

ManifestOf = Callable[..., Manifest]


def described(name: str, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": shape, **more}


def sent(name: str, shape: list[int]) -> RequestInput:
    return RequestInput(name, "FP32", shape, [])


@pytest.mark.parametrize(("length", "fits"), [(2, False), (3, True), (5, True), (6, False)])
def test_a_size_lies_between_its_bounds(manifest_of: ManifestOf, length: int, fits: bool) -> None:
    manifest = manifest_of(inputs=[described("x", [-1, -1], min_shape=[1, 3], max_shape=[8, 5])])
    if fits:
        check_shape([1, length], manifest.inputs[0], manifest)
        return
    words = r"must be at least \[1, 3\]" if length < 3 else r"may be at most \[8, 5\]"
    with pytest.raises(InvalidInputError, match=rf"input x has shape \[1, {length}\], its sizes {words}"):
        check_shape([1, length], manifest.inputs[0], manifest)


def test_sizes_of_one_name_are_equal_within_an_input_and_among_inputs(manifest_of: ManifestOf) -> None:
    first = described("x", [-1, -1, -1], axes=[None, "T", "T"])
    second = described("mask", [-1, -1], axes=[None, "T"])
    manifest = manifest_of(inputs=[first, second])
    x, mask = manifest.inputs

    def check(of_x: list[int], of_mask: list[int]) -> None:
        check_equal_sizes([(sent("x", of_x), x), (sent("mask", of_mask), mask)], manifest)

    check([2, 5, 5], [2, 5])
    with pytest.raises(InvalidInputError, match="x has size 4 along axis 2, input x along axis 1 has 5"):
        check([2, 5, 4], [2, 5])
    with pytest.raises(InvalidInputError, match="mask has size 4 along axis 1, input x along axis 1 has 5"):
        check([2, 5, 5], [2, 4])
    with pytest.raises(InvalidInputError, match="differ in rows: x 2, mask 3"):
        check([2, 5, 5], [3, 5])
