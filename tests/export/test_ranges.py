"""How far sizes go: each by itself, and together."""

import numpy as np
import pytest

from export.errors import ExportError
from export.example import Place
from export.held_out import Arrays
from export.ranges import Axes, Axis, check_limits, corners, failing, find_ranges

HEIGHT, WIDTH = ("x", 1), ("x", 2)
IMAGE = {"x": np.zeros((1, 4, 4), "f4")}
GROUPS = {(HEIGHT,): None, (WIDTH,): None}


def found(error: object, groups: dict[tuple[Place, ...], int | None] | None = None, **most: int) -> Axes:
    limits = {{"height": HEIGHT, "width": WIDTH}[name]: size for name, size in most.items()}
    varying, fixed = find_ranges([(IMAGE, error)], GROUPS if groups is None else groups, limits)  # type: ignore[list-item]
    return Axes(varying, fixed)


def of_positions(count: int) -> object:
    """A model that has so many learned positions, of all that is in an image."""
    return lambda arrays: "no position" if arrays["x"].shape[1] * arrays["x"].shape[2] > count else ""


def test_a_size_goes_as_far_as_the_model_does_and_eight_times_the_examples_at_most() -> None:
    axes = found(lambda arrays: "" if 3 <= arrays["x"].shape[1] <= 9 else "fails")
    assert axes.varying == (Axis((HEIGHT,), 4, 3, 9), Axis((WIDTH,), 4, 1, 32))


def test_every_size_that_is_admitted_works_beside_every_other() -> None:
    axes = found(of_positions(128))
    assert [axis.most for axis in axes.varying] == [32, 4]  # alone each would go to 32
    height, width = (range(axis.least, axis.most + 1) for axis in axes.varying)
    assert all(high * wide <= 128 for high in height for wide in width)


def test_every_input_that_is_tried_is_answered_at_every_size() -> None:
    long, short = {"x": np.full((1, 6), 5)}, {"x": np.full((1, 6), 2)}
    tried = [
        (inputs, lambda arrays: "beyond" if arrays["x"].max() > arrays["x"].shape[1] else "")
        for inputs in (short, long)
    ]
    (axis,), _ = find_ranges(tried, {(HEIGHT,): None}, {})
    assert axis.least == 5


def test_what_fails_between_the_ends_is_found_and_of_two_sizes_the_last_is_fixed() -> None:
    axes = [Axis((HEIGHT,), 4, 1, 32), Axis((WIDTH,), 4, 1, 32)]
    assert failing(axes, lambda _: "") == {}
    odd = failing(axes, lambda sizes: "odd" if sizes.get(WIDTH, 4) % 2 else "")
    assert list(odd) == [WIDTH]
    near = failing(axes, lambda sizes: "a window" if sizes.get(HEIGHT, 4) == 6 else "")
    assert near == {HEIGHT: "exported, but at x[1] 6 a window"}


def test_a_size_that_goes_only_with_the_examples_of_another_is_fixed() -> None:
    axes = found(lambda arrays: "" if 4 in arrays["x"].shape[1:] else "fails")
    assert [axis.places for axis in axes.varying] == [(HEIGHT,)]
    assert axes.fixed[WIDTH] == "it cannot vary where x[1] does"


def test_corners_are_all_at_one_end_and_each_alone_at_the_other() -> None:
    axes = [Axis((HEIGHT,), 4, 1, 9), Axis((WIDTH,), 4, 2, 8)]
    assert {tuple(sizes.values()) for sizes in corners(axes)} == {(1, 2), (9, 8), (9, 2), (1, 8)}


@pytest.mark.parametrize(
    ("positions", "most", "words"),
    [
        (128, {"height": 33}, "x is to have up to 33 along axis 1, the model takes 32: no position"),
        (128, {"height": 16, "width": 16}, "x is to have up to 16 along axis 2; with the largest of the other"),
    ],
)
def test_a_size_that_is_wished_for_and_cannot_be_is_told(positions: int, most: dict[str, int], words: str) -> None:
    with pytest.raises(ExportError, match=words):
        found(of_positions(positions), **most)


def test_a_wish_limits_what_is_served() -> None:
    assert [axis.most for axis in found(lambda _: "", height=6).varying] == [6, 32]


@pytest.mark.parametrize(
    ("most", "words"),
    [
        ({HEIGHT: 3}, "x is to have at most 3 along axis 1, the example has 4"),
        ({WIDTH: 5}, "x is to have up to 5 along axis 2, it has 4: the model's own size"),
    ],
)
def test_a_wish_that_the_example_or_the_model_excludes_is_told(most: dict[Place, int], words: str) -> None:
    arrays: Arrays = IMAGE
    with pytest.raises(ExportError, match=words):
        check_limits(most, arrays, {WIDTH: "the model's own size"})
