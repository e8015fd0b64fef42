from itertools import islice

import pytest

from service.request_id import HEADER, id_of, new_ids


@pytest.mark.parametrize(
    "sane",
    [
        b"7",
        b"x" * 128,
        b"3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"Root=1-67891233-abcdef012345678912345678",
        b"user@host:7/a+b_c",
    ],
)
def test_a_clients_sane_id_is_kept(sane: bytes) -> None:
    assert id_of([(b"host", b"x"), (HEADER, sane)], new_ids()) == sane


@pytest.mark.parametrize(
    "other",
    [b"", b"x" * 129, b"a b", b"a\tb", b'a"b', b"a,b", b"a;b", b"<b>", b"a\r\nb", b"a\n", "é".encode(), b"\xe9", b"\0"],
)
def test_another_is_replaced(other: bytes) -> None:
    assert id_of([(HEADER, other)], iter([b"new"])) == b"new"
    assert id_of([(HEADER, other), (HEADER, b"sane")], new_ids()) == b"sane"


def test_new_ids_are_never_the_same_on_one_connection_or_on_two() -> None:
    ids = [each for _ in range(100) for each in islice(new_ids(), 100)]
    assert len(set(ids)) == 10_000
    assert all(id_of([(HEADER, each)], iter([])) == each for each in ids)  # what we give, we take
