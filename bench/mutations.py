"""Sound requests, each broken in a way that follows from a number: the same number breaks it the same way again."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.asks import Ask
from bench.oip import HEADER_LENGTH

# What has been an edge for some parser: sizes of integers, other spellings, nesting, text that is no UTF-8.
TOKENS = [
    *(b"0", b"-1", b"1e999", b"-0.0", b"1.5", b"9223372036854775808", b"18446744073709551616", b"4294967297"),
    *(b"null", b"true", b"NaN", b"[]", b"{}", b'""', b'"\\ud800"', b"[" * 300, b"]" * 300, b'{"a":' * 300),
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"parameters":{"timeout":-1},', b'"outputs":[],', b'"inputs":[],', b","),
]
DATATYPES = [b"FP16", b"FP32", b"FP64", b"INT64", b"BOOL", b"BYTES", b"UINT8", b"fp32"]
LENGTHS = ["-1", "1", "99999999999999999999", "0x10", "1.0", "", " 7 ", "\xb2"]

Mutation = Callable[[bytes, random.Random], bytes]


def flip_bits(body: bytes, rng: random.Random) -> bytes:
    """Up to eight."""
    changed = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(body: bytes, rng: random.Random) -> bytes:
    """Without a piece, or without its end."""
    start = rng.randrange(len(body))
    return body[:start] + (b"" if rng.random() < 0.5 else body[start + rng.randint(1, 20) :])


def insert(body: bytes, rng: random.Random) -> bytes:
    """A token somewhere."""
    at = rng.randrange(len(body))
    return body[:at] + rng.choice(TOKENS) + body[at:]


def repeat(body: bytes, rng: random.Random) -> bytes:
    """A piece, twice to thirty times."""
    start = rng.randrange(len(body))
    end = start + rng.randint(1, 64)
    return body[:start] + body[start:end] * rng.randint(2, 30) + body[end:]


def other_number(body: bytes, rng: random.Random) -> bytes:
    """A digit of the JSON's beginning, where the sizes stand, becomes a token."""
    digits = [at for at, byte in enumerate(body[:300]) if chr(byte).isdigit()]
    if not digits:
        return insert(body, rng)
    at = rng.choice(digits)
    return body[:at] + rng.choice(TOKENS) + body[at + 1 :]


def other_datatype(body: bytes, rng: random.Random) -> bytes:
    """Of as many bytes or of others."""
    for datatype in DATATYPES:
        if datatype in body:
            return body.replace(datatype, rng.choice(DATATYPES), 1)
    return flip_bits(body, rng)


MUTATIONS: Sequence[Mutation] = (flip_bits, cut, insert, repeat, other_number, other_datatype)


def mutated(ask: Ask, number: int, *, times: int = 2) -> Ask:
    """Broken up to ``times`` times, which may leave it sound."""
    rng = random.Random(number)  # noqa: S311  # to be had again, not secret
    body, headers = ask.body, dict(ask.headers)
    for _ in range(rng.randint(1, times)):
        body = rng.choice(MUTATIONS)(body or b" ", rng)
    if HEADER_LENGTH in headers:
        kind = rng.random()
        if kind < 0.5:  # still what is JSON, if that has grown or shrunk
            headers[HEADER_LENGTH] = str(max(0, int(headers[HEADER_LENGTH]) + len(body) - len(ask.body)))
        elif kind < 0.6:
            headers[HEADER_LENGTH] = rng.choice(LENGTHS)
    return replace(ask, body=body, headers=headers)
