from __future__ import annotations

import pytest

from extproc.values.store_address import NAMESPACE, parse_address, parse_public_address


def test_an_address_names_host_port_database_and_tls() -> None:
    address = parse_address("redis://cache.example")
    assert (address.host, address.port, address.db, address.tls) == (
        "cache.example", 6379, 0, False,
    )  # fmt: skip
    address = parse_address("rediss://app:p%40ss@[::1]:7000/3")
    assert (address.host, address.port, address.db, address.tls) == ("::1", 7000, 3, True)
    assert (address.username, address.password) == ("app", "p@ss")
    assert str(address) == "rediss://[::1]:7000/3"


@pytest.mark.parametrize(
    "wrong",
    ["", "redis", "http://h:1/0", "redis://", "redis://h:x/0", "redis://h/a", "redis://h/0?a=1"],
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="store"):
        parse_address(wrong)


def test_a_secret_is_neither_taken_nor_repeated() -> None:
    with pytest.raises(ValueError, match="TOKENWEIR_STORE_PASSWORD") as error:
        parse_public_address("redis://:hunter2@h:6379/0")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("wrong", ["", "a b", "a}b", "{a", "x" * 65, "a\n"])
def test_a_namespace_cannot_break_out_of_the_hash_tag(wrong: str) -> None:
    assert not NAMESPACE.fullmatch(wrong)
