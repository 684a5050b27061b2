"""Settings: what is accepted, and that every refusal names its argument and shows no secret."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from redis.credentials import UsernamePasswordCredentialProvider

from trio_sentinel_scan._core import config
from trio_sentinel_scan._core.config import (
    Credentials,
    Endpoint,
    checked_address,
    checked_addresses,
    checked_credentials,
    checked_duration,
    checked_service,
    checked_settings,
    mapped_address,
)
from trio_sentinel_scan._core.errors import ConfigError
from trio_sentinel_scan._core.identity import Address

SECRET = "hunter2"


def refused(call: Callable[[], object], argument: str) -> ConfigError:
    """The call is refused with an error that names the argument."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.argument == argument
    assert str(caught.value).startswith(f"{argument}: ")
    return caught.value


# ---- addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, address",
    [
        (("10.0.0.1", 6379), Address("10.0.0.1", 6379)),
        (["10.0.0.1", 6379], Address("10.0.0.1", 6379)),
        (Address("::1", 1), Address("::1", 1)),
        (("/run/redis.sock", 0), Address("/run/redis.sock", 0)),
        ("/run/redis.sock", Address("/run/redis.sock", 0)),
        ("redis.example", Address("redis.example", 6379)),
        ("redis.example:7000", Address("redis.example", 7000)),
        ("::1", Address("::1", 6379)),
        ("[::1]", Address("::1", 6379)),
        ("[fe80::1%eth0]:65535", Address("fe80::1%eth0", 65535)),
    ],
    ids=repr,
)
def test_an_address_is_accepted_in_each_form_that_users_write(value: object, address: Address) -> None:
    """A pair, a host, a host with its port, IPv6 with brackets or without, the path of a Unix socket."""
    assert checked_address(value, "address") == address


@pytest.mark.parametrize(
    "value",
    [
        *[None, 6379, b"host", (), ("host",), ("host", 1, 2), {"host": 1}, {"host", "port"}],
        *[("", 6379), ("a b", 6379), ("host\n", 6379), (b"host", 6379), (None, 6379), ("/run/redis.sock", 6379, 0)],
        *[("host", 0), ("host", 65536), ("host", -1), ("host", "6379"), ("host", 6379.0), ("host", True)],
        *["", ":6379", "host:", "host:x", "host:0", "host:65536", "host:-1", "host:٣", "host:" + "9" * 10_000],
        *["[::1", "[::1]x", "[::1]6379", "[]:6379", "[::1]:", "two hosts", "::1]:1", "h1:1,h2:2"],
        *[("[::1]", 6379), ("/run/redis.sock", 6379), ("user@host", 6379)],
    ],
    # A set's order is another one in each process.
    ids=lambda value: "a set of two" if isinstance(value, set) else f"{value!r:.30}",
)
def test_a_malformed_address_is_refused(value: object) -> None:
    """With the argument's name, and with no other exception."""
    refused(lambda: checked_address(value, "sentinels"), "sentinels")


def test_a_list_of_addresses_keeps_its_order_and_loses_its_repetitions() -> None:
    """Each Sentinel is asked once, the first one first."""
    addresses = checked_addresses([("b", 2), "a", ("b", 2), "a:26379"], "sentinels", default_port=26379)
    assert addresses == (Address("b", 2), Address("a", 26379))


@pytest.mark.parametrize("value", [[], (), "host", b"host", None, {"host": 1}, ["host", None], {("host", 1)}], ids=repr)
def test_what_is_no_list_of_addresses_is_refused(value: object) -> None:
    """A single text is not taken for a list of its characters."""
    refused(lambda: checked_addresses(value, "sentinels", default_port=26379), "sentinels")


# ---- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["mymaster", "my-master_1", "größe", "a"])
def test_a_service_is_named_as_in_sentinels_configuration(value: str) -> None:
    """Any word will do."""
    assert checked_service(value) == value


@pytest.mark.parametrize("value", ["", " ", "my master", "my\tmaster", "m\n", "m\x00", b"mymaster", None, 1], ids=repr)
def test_a_service_that_sentinel_could_not_have_is_refused(value: object) -> None:
    """Sentinel's configuration is made of words."""
    refused(lambda: checked_service(value), "service")


# ---- credentials -----------------------------------------------------------------------------------------------


def test_credentials_are_a_password_a_pair_or_a_provider() -> None:
    """Or nothing at all."""
    provider = UsernamePasswordCredentialProvider("user", SECRET)
    assert not checked_credentials(None, None, None).given
    assert checked_credentials(None, SECRET, None) == Credentials(None, SECRET)
    assert checked_credentials("user", SECRET, None) == Credentials("user", SECRET)
    assert checked_credentials(None, "", None).given
    assert checked_credentials(None, None, provider).provider is provider
    assert checked_credentials(None, None, provider).given


@pytest.mark.parametrize(
    "arguments, argument",
    [
        ((None, SECRET.encode(), None), "password"),
        ((b"user", SECRET, None), "username"),
        (("user", None, None), "password"),
        (("user", None, UsernamePasswordCredentialProvider("user", SECRET)), "credential_provider"),
        ((None, SECRET, UsernamePasswordCredentialProvider("user", SECRET)), "credential_provider"),
        ((None, None, object()), "credential_provider"),
    ],
    ids=range(6),
)
def test_credentials_that_cannot_be_are_refused_without_showing_them(
    arguments: tuple[Any, Any, Any], argument: str
) -> None:
    """The argument's name carries the prefix of whose credentials they are."""
    for prefix in ("", "sentinel_"):
        error = refused(partial(checked_credentials, *arguments, prefix), prefix + argument)
        assert SECRET not in str(error) + repr(error)


def test_no_repr_shows_a_password() -> None:
    """Settings get into logs and tracebacks."""
    provider = UsernamePasswordCredentialProvider("user", SECRET)
    for credentials in (Credentials("user", SECRET), Credentials(provider=provider)):
        shown = repr(settings(credentials=credentials)) + repr(Endpoint(credentials)) + repr(credentials)
        assert SECRET not in shown
        assert "redis.credentials" not in shown


# ---- settings --------------------------------------------------------------------------------------------------


def settings(**changes: Any) -> config.ClientSettings:
    """The settings of a client that was given nothing but these arguments."""
    arguments: dict[str, Any] = {
        "db": 0,
        "credentials": Credentials(),
        "ssl": None,
        "client_name": None,
        "response_timeout": 5,
        "failover_timeout": None,
        "decode_responses": False,
        "encoding": "utf-8",
        "encoding_errors": "strict",
        "protocol": None,
        "retry_writes": False,
        "max_waiting": 10_000,
        "max_connections": 50,
    }
    return checked_settings(**{**arguments, **changes})


def test_settings_are_kept_as_they_were_given() -> None:
    """Durations become floats, and None for ever."""
    context = object()
    found = settings(
        db=3, ssl=context, client_name="scan:1", decode_responses=True, encoding="latin-1", encoding_errors="replace"
    )
    assert found.endpoint == Endpoint(Credentials(), context, 3, "scan:1")
    assert (found.response_timeout, found.failover_timeout) == (5.0, math.inf)
    assert (found.decode_responses, found.encoding, found.encoding_errors) == (True, "latin-1", "replace")
    assert [settings(protocol=protocol).protocol for protocol in (None, 2, 3)] == [None, 2, 3]
    assert (settings().retry_writes, settings().max_waiting) == (False, 10_000)
    assert (settings(retry_writes=True).retry_writes, settings(max_waiting=1).max_waiting) == (True, 1)
    assert [settings().wait_ready, settings(wait_ready=True).wait_ready] == [False, True]


@pytest.mark.parametrize(
    "argument, values",
    [
        ("db", [-1, "0", 0.0, True, None]),
        ("client_name", ["a b", "a\n", "größe", 1, b"name"]),
        ("response_timeout", [0, -1, "5", math.nan, True, [1]]),
        ("failover_timeout", [0, -0.0, -math.inf, "x"]),
        ("decode_responses", [1, None, "yes"]),
        ("encoding", ["no-such", "hex", "a\0b", "\udc80", "undefined", None, 8, b"utf-8"]),
        ("encoding_errors", ["no-such", "a\0b", "\udc80"]),
        ("protocol", [1, 4, "3", True, 3.0, [2]]),
        ("retry_writes", [1, None, "yes"]),
        ("max_waiting", [0, -1, True, None, "10", 1.5]),
        ("wait_ready", [None, 1, "yes"]),
        ("max_connections", [0, -1, True, 1.0, "5", None]),
    ],
)
def test_a_setting_that_cannot_be_is_refused(argument: str, values: list[object]) -> None:
    """Before anything is sent, and not by the first reply that trips over it."""
    for value in values:
        refused(partial(settings, **{argument: value}), argument)


@pytest.mark.parametrize("value, seconds", [(None, math.inf), (math.inf, math.inf), (1, 1.0), (0.5, 0.5)])
def test_a_duration_is_seconds_above_nought(value: object, seconds: float) -> None:
    """None and infinity wait for ever."""
    assert checked_duration(value, "response_timeout") == seconds


def test_a_duration_that_no_float_holds_is_for_ever() -> None:
    """Python's integers are larger than its floats."""
    assert checked_duration(10**400, "response_timeout") == math.inf


# ---- the address map -------------------------------------------------------------------------------------------

ANNOUNCED = Address("172.17.0.2", 6379)


def test_an_address_map_is_a_mapping_or_a_function() -> None:
    """What it does not name is dialled as announced."""
    there = ("127.0.0.1", 7001)
    assert mapped_address(ANNOUNCED, None) == ANNOUNCED
    assert mapped_address(ANNOUNCED, {("172.17.0.2", 6379): there}) == Address(*there)
    assert mapped_address(ANNOUNCED, {("172.17.0.3", 6379): there}) == ANNOUNCED
    assert mapped_address(ANNOUNCED, lambda address: ("127.0.0.1", address[1] + 1)) == Address("127.0.0.1", 6380)
    # What a careless user's function may give, and the types forbid.
    text: Any = "127.0.0.1:7001"
    assert mapped_address(ANNOUNCED, lambda _: text) == Address("127.0.0.1", 7001)


def test_an_address_map_that_fails_is_a_config_error() -> None:
    """What it raised is its cause; what it gave must be an address."""

    def broken(_: tuple[str, int]) -> tuple[str, int]:
        raise KeyError(SECRET)

    error = refused(lambda: mapped_address(ANNOUNCED, broken), "address_map")
    assert isinstance(error.__cause__, KeyError)
    assert "172.17.0.2:6379" in str(error)
    assert SECRET not in str(error)
    nothing: Any = None
    refused(lambda: mapped_address(ANNOUNCED, lambda _: nothing), "address_map")
    refused(lambda: mapped_address(ANNOUNCED, {("172.17.0.2", 6379): nothing}), "address_map")
