"""Lines for a reader that may be slow."""

import os
from collections.abc import Iterator

import pytest

from service.queued_stream import MOST_LINES, QueuedStream


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """To read, to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_lines_come_in_order_and_what_waits_at_the_end_as_well(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    stream = QueuedStream(writes)
    lines = [f"{number} \ud800 é\n" for number in range(500)]
    for line in lines:
        stream.write(line)
    stream.close()
    assert os.read(reads, 2**16) == "".join(lines).encode(errors="backslashreplace")


def test_who_writes_never_waits_and_what_was_dropped_is_counted(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    os.set_blocking(reads, True)
    stream, line, many = QueuedStream(writes), "x" * 99 + "\n", 3 * MOST_LINES
    for _ in range(many):  # three megabytes, of which the pipe takes 64 KiB
        stream.write(line)
    read = b""
    while b"dropped" not in read:
        read += os.read(reads, 2**20)
    whole = read.split(b"\n")
    kept, told = whole.count(b"x" * 99), next(row for row in whole if b"dropped" in row)
    assert MOST_LINES <= kept < many
    assert int(told.split()[0]) == many - kept
    stream.close()


def test_a_reader_that_is_gone_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    stream = QueuedStream(writes)
    stream.write("nobody hears\n")
    stream.close()
    os.close(writes)
