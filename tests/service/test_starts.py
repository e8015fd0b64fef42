"""Requests begin a few in each pass of the event loop, in their order."""

import asyncio

from service.starts import MOST_IN_A_PASS, Starts


async def test_a_few_begin_at_once_and_the_others_a_few_a_pass_in_order() -> None:
    starts, begun, passes = Starts(), list[int](), list[int]()
    count = 3 * MOST_IN_A_PASS + 1
    for number in range(count):
        starts.begin(lambda number=number: begun.append(number))  # type: ignore[misc]
    assert begun == list(range(MOST_IN_A_PASS))
    while len(begun) < count:
        passes.append(len(begun))
        await asyncio.sleep(0)
    assert begun == list(range(count))
    assert all(after - before <= MOST_IN_A_PASS for before, after in zip(passes, [*passes[1:], count], strict=True))


async def test_those_that_come_later_wait_behind_those_that_wait() -> None:
    starts, begun = Starts(), list[str]()
    for number in range(MOST_IN_A_PASS + 2):
        starts.begin(lambda number=number: begun.append(str(number)))  # type: ignore[misc]
    starts.begin(lambda: begun.append("last"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert begun[-1] == "last"
    assert len(begun) == MOST_IN_A_PASS + 3


async def test_after_a_pass_as_many_begin_at_once_again() -> None:
    starts, begun = Starts(), list[int]()
    for _ in range(3):
        for number in range(MOST_IN_A_PASS):
            starts.begin(lambda number=number: begun.append(number))  # type: ignore[misc]
        assert len(begun) % MOST_IN_A_PASS == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert begun == [*range(MOST_IN_A_PASS)] * 3
