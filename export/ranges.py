"""How far the sizes that vary may vary: found by trying them, one by one and together."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from export.errors import ExportError
from export.example import SEED, Place, resized
from export.held_out import Arrays

PATIENCE_S = 30.0  # for trying a large model at many sizes
NEAR = 8  # sizes on each side of the example's
DRAWN = 8
REACH = 8  # times the example's size: so far it is tried how large a size may be

Error = Callable[[Arrays], str]  # why inputs are refused, nothing where they are not
Tried = tuple[Arrays, Error]
ErrorAt = Callable[[dict[Place, int]], str]


@dataclass(frozen=True)
class Axis:
    """A size that varies, in all the places where it is the same one. least, most: that were tried and worked."""

    places: tuple[Place, ...]
    size: int  # of the example
    least: int
    most: int

    def at(self, size: int) -> dict[Place, int]:
        """The size in every one of its places."""
        return dict.fromkeys(self.places, size)

    @property
    def other(self) -> int:
        """Another size than the example's: one more, or one less where that is too large."""
        return self.size + 1 if self.size < self.most else self.size - 1


@dataclass(frozen=True)
class Axes:
    """What was found. varying: without the batch's. fixed: why a size cannot vary, by its place."""

    varying: tuple[Axis, ...] = ()
    fixed: Mapping[Place, str] = field(default_factory=dict)


def find_ranges(
    tried: Sequence[Tried], groups: Mapping[tuple[Place, ...], int | None], most: Mapping[Place, int]
) -> tuple[tuple[Axis, ...], dict[Place, str]]:
    """How small and how large the sizes in each group's places may be, together; and why those cannot that cannot.

    tried: inputs that are to be answered at all sizes, the example first. groups: with the largest size known to be
    possible. most: as of :func:`export.axes.find_axes`. Raises ExportError where a size cannot be as large as it is to
    be.
    """

    def error(sizes: dict[Place, int]) -> str:
        return next((reason for arrays, fails in tried if (reason := fails(resized(arrays, sizes)))), "")

    example = tried[0][0]
    varying: list[Axis] = []
    fixed: dict[Place, str] = {}
    for places, upper in groups.items():
        found = _range(error, example, places, upper, most)
        if isinstance(found, Axis):
            found = _beside(varying, found, error)
        if isinstance(found, Axis):
            varying.append(found)
        else:
            fixed |= dict.fromkeys(places, found)
    for axis in varying:
        for name, along in axis.places:
            if (wanted := most.get((name, along), axis.most)) > axis.most:
                raise ExportError(
                    f"{name} is to have up to {wanted} along axis {along}; with the largest of the other sizes, as "
                    f"they are wished for or were tried, it goes up to {axis.most}"
                )
    return tuple(varying), fixed


def check_limits(most: Mapping[Place, int], arrays: Arrays, fixed: Mapping[Place, str]) -> None:
    """Raises ExportError where a size is to be as large as it cannot be, or smaller than the example's."""
    for (name, axis), wanted in most.items():
        size = arrays[name].shape[axis]
        if wanted < size:
            raise ExportError(f"{name} is to have at most {wanted} along axis {axis}, the example has {size}")
        if wanted > size and (name, axis) in fixed:
            raise ExportError(f"{name} is to have up to {wanted} along axis {axis}, it has {size}: {fixed[name, axis]}")


def _range(
    error: ErrorAt, arrays: Arrays, places: tuple[Place, ...], upper: int | None, most: Mapping[Place, int]
) -> Axis | str:
    """From the smallest to the largest size that works, of those tried; or why there is only one."""
    name, axis = places[0]
    size = arrays[name].shape[axis]

    def error_at(of: int) -> str:
        return error(dict.fromkeys(places, of))

    wanted = [most[place] for place in places if place in most]
    limit = max(size, min(wanted) if wanted else min(REACH * size, upper or REACH * size))
    found = Axis(places, size, size, size)
    larger = error_at(size + 1) if size < limit else "no more is wished for"
    if not larger:
        found = replace(found, most=_last(lambda of: not error_at(of), size + 1, limit))
    if size > 1 and not error_at(size - 1):
        found = replace(found, least=_last(lambda of: not error_at(of), size - 1, 1))
    if found.least == found.most:
        return larger if size == limit else f"the model fails at {size + 1}: {larger}"
    if wanted and found.most < limit:
        raise ExportError(
            f"{name} is to have up to {limit} along axis {axis}, the model takes {found.most}: "
            + error_at(found.most + 1)
        )
    return found


def _beside(others: Sequence[Axis], axis: Axis, error: ErrorAt) -> Axis | str:
    """As far as the axis goes where the others are at their ends: a table may hold so many positions of both."""

    def works(tried: Axis) -> bool:
        return not any(error(sizes) for sizes in corners([*others, tried]))

    if not others or works(axis):
        return axis
    at_size = replace(axis, least=axis.size, most=axis.size)
    most = _last(lambda of: works(replace(at_size, most=of)), axis.size, axis.most)
    least = _last(lambda of: works(replace(at_size, least=of, most=most)), axis.size, axis.least)
    if least == most:
        beside = ", ".join(f"{name}[{along}]" for name, along in (other.places[0] for other in others))
        return f"it cannot vary where {beside} does"
    return replace(axis, least=least, most=most)


def corners(varying: Sequence[Axis]) -> Iterator[dict[Place, int]]:
    """Sizes at the ends of their ranges: all at the least, all at the most, and each alone at its other end."""
    for rest in (0, 1):
        for alone in (None, *range(len(varying))):
            ends = [
                (axis.least, axis.most)[1 - rest if number == alone else rest] for number, axis in enumerate(varying)
            ]
            yield {place: end for axis, end in zip(varying, ends, strict=True) for place in axis.places}


def _last(works: Callable[[int], bool], good: int, end: int) -> int:
    """The size nearest to ``end`` that works, where one does from ``good`` on and none behind the first that fails."""
    if works(end):
        return end
    bad = end
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good


def failing(varying: Sequence[Axis], error: ErrorAt) -> dict[Place, str]:
    """The places of a size at one of whose values there is an error, and which; of several sizes those of the last.

    All ends are tried, and some of what lies between, as many as there is time for.
    """
    started = perf_counter()
    for sizes in (*corners(varying), *between(varying)):
        if perf_counter() - started > PATIENCE_S:
            break
        if reason := error(sizes):
            axis = next(each for each in reversed(varying) if sizes.get(each.places[0], each.size) != each.size)
            at = ", ".join(f"{name}[{along}] {sizes[name, along]}" for name, along in sizes)
            return dict.fromkeys(axis.places, f"exported, but at {at} {reason}")
    return {}


def between(varying: Sequence[Axis]) -> Iterator[dict[Place, int]]:
    """Sizes to look at beside the ends: those near the example's, and some of all that lie between, drawn by a seed.

    A forward may take another way at each multiple of a window, which no end need be.
    """
    rng = random.Random(SEED)  # noqa: S311  # no secret
    for axis in varying:
        near = range(max(axis.least, axis.size - NEAR), min(axis.most, axis.size + NEAR) + 1)
        drawn = [rng.randint(axis.least, axis.most) for _ in range(DRAWN)]
        yield from (axis.at(size) for size in dict.fromkeys([*near, *drawn]) if size != axis.size)
    if len(varying) > 1:
        for _ in range(DRAWN):
            sizes: dict[Place, int] = {}
            for axis in varying:
                sizes |= axis.at(rng.randint(axis.least, axis.most))
            yield sizes
