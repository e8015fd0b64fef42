"""What each worker has counted, in memory that all of them can read.

A worker counts in a file of its own, without locks or messages, and whoever is asked for totals reads everybody's. What
a worker that died had counted stays in its file, and the one that takes its place goes on from there: totals never
fall. The files have no names, so nothing is left behind, however the processes end (docs/decisions/0011).

A file is a row of chunks, in words of 8 bytes: how many words are in use, whether the worker serves (in the first chunk
alone), then records: length of the key, count of the numbers, the key, the numbers. A record is there once the words in
use include it; one that was being written when its worker was killed never was.
"""

import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from ctypes import Array, c_double
from mmap import mmap
from multiprocessing.reduction import DupFd
from typing import Any, Self

Key = tuple[str, ...]
Numbers = Array[c_double]

WORD = 8
HEADER = 2  # words
USED, SERVES = 0, 1
CHUNK = 2**16  # bytes: whole pages on every system, and some ten models


class Tally:
    """One worker's numbers by key. Only that worker adds to it."""

    def __init__(self, file: int) -> None:
        """file: open for reading and writing."""
        self._file = file
        self._chunks: list[mmap] = []

    @classmethod
    def create(cls) -> Self:
        """An empty one."""
        if hasattr(os, "memfd_create"):  # the machine's memory, not what a container has of /dev/shm or a disk
            file = os.memfd_create("normserve-tally")
        else:
            with tempfile.TemporaryFile() as opened:
                file = os.dup(opened.fileno())
        os.ftruncate(file, CHUNK)
        return cls(file)

    def __reduce__(self) -> tuple[Any, ...]:
        """So that a process that is being spawned gets the file."""
        return _handed_over, (DupFd(self._file),)

    def records(self) -> Iterator[tuple[Key, Numbers]]:
        """Every key with its numbers, which go on changing as the worker counts."""
        for chunk in self._mapped():
            at, used = HEADER, _used(chunk)
            while at < used:
                length, count = map(int, struct.unpack_from("2d", chunk, at * WORD))
                at += 2
                key = chunk[at * WORD : at * WORD + length].decode()
                at += _words(length)
                yield tuple(key.split("\0")), (c_double * count).from_buffer(chunk, at * WORD)
                at += count

    def add(self, key: Key, count: int) -> Numbers:
        """So many numbers of 0 under a new key, whose parts have no NUL in them."""
        text = "\0".join(key).encode()
        words = 2 + _words(len(text)) + count
        chunks = self._mapped()
        at = _used(chunks[-1])
        if (at + words) * WORD > CHUNK:
            os.ftruncate(self._file, (len(chunks) + 1) * CHUNK)
            chunks, at = self._mapped(), HEADER
        chunk, start = chunks[-1], (len(chunks) - 1) * CHUNK
        # Written by the kernel, so that on any processor what is in use is seen after what it includes.
        record = struct.pack("2d", len(text), count) + text
        os.pwrite(self._file, record.ljust(words * WORD, b"\0"), start + at * WORD)
        os.pwrite(self._file, struct.pack("d", at + words), start + USED * WORD)
        return (c_double * count).from_buffer(chunk, (at + words - count) * WORD)

    @property
    def serves(self) -> bool:
        """Whether its worker has loaded its models and lives."""
        return bool(os.pread(self._file, WORD, SERVES * WORD).strip(b"\0"))

    @serves.setter
    def serves(self, serves: bool) -> None:
        os.pwrite(self._file, struct.pack("d", serves), SERVES * WORD)

    def _mapped(self) -> list[mmap]:
        whole = os.fstat(self._file).st_size // CHUNK
        while len(self._chunks) < whole:
            self._chunks.append(mmap(self._file, CHUNK, offset=len(self._chunks) * CHUNK))
        return self._chunks


class Tallies:
    """One worker's numbers, to count in, and all workers', to read. By itself a worker needs no file."""

    def __init__(self, tallies: Sequence[Tally] = (), mine: int = 0) -> None:
        """mine: which of them this process counts in."""
        self._mine = tallies[mine] if tallies else None
        self._others = [tally for tally in tallies if tally is not self._mine]
        self._numbers = dict(self._mine.records()) if self._mine else {}

    def numbers(self, key: Key, count: int) -> Numbers:
        """The numbers under this key, to be written to: as many as are asked for first, of 0 or of a predecessor's."""
        if key not in self._numbers:
            self._numbers[key] = self._mine.add(key, count) if self._mine else (c_double * count)()
        return self._numbers[key]

    def read(self) -> Iterator[tuple[Mapping[Key, Numbers], bool]]:
        """Each worker's numbers by key, this one's first, and whether it serves."""
        yield self._numbers, True
        for tally in self._others:
            yield dict(tally.records()), tally.serves

    def serve(self) -> None:
        """From now on this worker answers requests."""
        if self._mine:
            self._mine.serves = True


def _handed_over(file: Any) -> Tally:
    return Tally(file.detach())


def _used(chunk: mmap) -> int:
    return max(HEADER, int(struct.unpack_from("d", chunk, USED * WORD)[0]))


def _words(length: int) -> int:
    """That so many bytes take."""
    return -(-length // WORD)
