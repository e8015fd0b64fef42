"""What is kept of requests that come again and again."""

import json

import pytest

from service.served import KNOWN_BYTES, KNOWN_HEADERS, Plans


class Counted:
    """Makes plans, and counts them."""

    def __init__(self) -> None:
        self.made = 0
        self.plans = Plans(self)

    def __call__(self, request: object) -> object:
        self.made += 1
        return request

    def ask(self, tensor: dict[str, object], binary: bytes = bytes(4), **more: object) -> object:
        header = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], **tensor}], **more}).encode()
        return self.plans.of(header + binary, len(header))


BINARY = {"parameters": {"binary_data_size": 4}}


def test_a_header_that_comes_again_is_read_once_whatever_the_bytes_behind_it() -> None:
    counted = Counted()
    first, binary = counted.ask(BINARY, b"abcd")
    again, other = counted.ask(BINARY, b"efgh")
    assert (counted.made, first is again, bytes(binary), bytes(other)) == (1, True, b"abcd", b"efgh")


@pytest.mark.parametrize(
    ("tensor", "binary", "more"),
    [({"data": [1]}, b"", {}), (BINARY, bytes(4), {"id": "x" * KNOWN_BYTES})],
    ids=["values in its JSON", "long"],
)
def test_what_holds_values_or_is_long_is_not_kept(tensor: dict[str, object], binary: bytes, more: dict) -> None:
    counted = Counted()
    for _ in range(2):
        counted.ask(tensor, binary, **more)
    assert counted.made == 2


def test_no_more_than_so_many_are_kept() -> None:
    counted = Counted()
    for number in range(3 * KNOWN_HEADERS):
        counted.ask(BINARY, id=str(number))
        assert len(counted.plans._known) <= KNOWN_HEADERS
