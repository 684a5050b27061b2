"""Addresses, credentials and settings: checked once, before anything is sent.

Every problem is a ConfigError that names the argument at fault.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from .errors import ConfigError
from .identity import Address

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

__all__ = [
    "AddressLike",
    "AddressMap",
    "ClientSettings",
    "Credentials",
    "Endpoint",
    "checked_address",
    "checked_address_map",
    "checked_addresses",
    "checked_credentials",
    "checked_service",
    "checked_settings",
    "mapped_address",
]

DATA_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
MAX_WAITING: Final = 10_000
# Seconds. Sentinel's own default takes half a minute to call a master down, and then elects another one.
RESPONSE_TIMEOUT: Final = 5.0
FAILOVER_TIMEOUT: Final = 60.0
# As redis-py's BlockingConnectionPool.
MAX_CONNECTIONS: Final = 50

AddressLike: TypeAlias = Address | tuple[str, int] | str
AddressMap: TypeAlias = Mapping[tuple[str, int], tuple[str, int]] | Callable[[tuple[str, int]], tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in: a username and password, or redis-py's `CredentialProvider`, or nothing."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    provider: CredentialProvider | None = field(default=None, repr=False)

    @property
    def given(self) -> bool:
        """Whether there is anything to log in with."""
        return self.password is not None or self.provider is not None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Everything that it takes to open a connection to one kind of server (data nodes, or Sentinels)."""

    credentials: Credentials = field(default_factory=Credentials)
    # An ssl.SSLContext; nothing here looks into it.
    ssl: object | None = field(default=None, repr=False)
    db: int = 0
    client_name: str | None = None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What all clients share. Durations are in seconds; `math.inf` waits for ever."""

    endpoint: Endpoint
    response_timeout: float
    failover_timeout: float
    decode_responses: bool
    encoding: str
    encoding_errors: str
    protocol: int | None
    # Connections for leases, blocking commands and the like, beside the shared one and those of scans.
    max_connections: int
    # Whether a write whose outcome is unknown is sent again, and how many commands may wait at once.
    retry_writes: bool = False
    max_waiting: int = MAX_WAITING
    # Whether a client may be opened before its servers are up.
    wait_ready: bool = False


def checked_address(value: object, argument: str, *, default_port: int = DATA_PORT) -> Address:
    """An address given as ``(host, port)``, ``"host"``, ``"host:port"``, ``"[v6]:port"`` or ``"/path/to.sock"``."""
    if isinstance(value, str):
        return parse_host_port(value, argument, default_port=default_port)
    pair = _as_items(value)
    if pair is None or len(pair) != 2:
        raise ConfigError(argument, 'must be (host, port), "host:port", or the path of a Unix socket')
    host, port = pair
    if not isinstance(host, str):
        raise ConfigError(argument, f"the host must be str, not {type(host).__name__}")
    if host.startswith("/") and port == 0:
        return Address(host, 0)
    if not host or any(char.isspace() or char in "[],/@" for char in host):
        raise ConfigError(argument, "the host is empty, or has white space or one of [ ] , / @ in it")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ConfigError(argument, "the port must be a whole number from 1 to 65535")
    return Address(host, port)


def parse_host_port(text: str, argument: str, *, default_port: int) -> Address:
    """One member of a list of addresses, as text."""
    if text.startswith("/"):
        return Address(text, 0)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(argument, 'an IPv6 address with a port is written "[address]:port"')
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
    if port is not None and not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise ConfigError(argument, "the port must be a whole number from 1 to 65535")
    return checked_address((host, default_port if port is None else int(port)), argument)


def checked_addresses(values: object, argument: str, *, default_port: int) -> tuple[Address, ...]:
    """A list of addresses, in order and without repetitions; at least one."""
    items = _as_items(values)
    if items is None:
        raise ConfigError(argument, "must be a list of addresses, each (host, port)")
    addresses = dict.fromkeys(checked_address(item, argument, default_port=default_port) for item in items)
    if not addresses:
        raise ConfigError(argument, "must have at least one address")
    return tuple(addresses)


def _as_items(value: object) -> list[Any] | None:
    return list(cast("Sequence[Any]", value)) if isinstance(value, (list, tuple)) else None


def checked_service(value: object) -> str:
    """The name of a service, as Sentinel's configuration can have it: not empty, no white space."""
    if not isinstance(value, str):
        raise ConfigError("service", f"must be str, not {type(value).__name__}")
    if not value or any(char.isspace() or not char.isprintable() for char in value):
        raise ConfigError("service", "must be a name without white space, as in Sentinel's configuration")
    return value


def checked_credentials(
    username: str | None, password: str | None, provider: CredentialProvider | None, prefix: str = ""
) -> Credentials:
    """A username and password, or a provider of both. `prefix` is put before the arguments' names in errors."""
    for name, value in (("username", username), ("password", password)):
        if not isinstance(cast("object", value), str | None):
            raise ConfigError(prefix + name, f"must be str, not {type(value).__name__}")
    if provider is not None:
        if username is not None or password is not None:
            raise ConfigError(prefix + "credential_provider", "give a provider, or a username and password, not both")
        if not hasattr(provider, "get_credentials"):
            raise ConfigError(prefix + "credential_provider", "must be a redis.CredentialProvider")
    elif username is not None and password is None:
        raise ConfigError(prefix + "password", "is missing: a username was given")
    return Credentials(username, password, provider)


def checked_duration(value: object, argument: str) -> float:
    """Seconds: a number above 0, `math.inf`, or None for "for ever"."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(argument, "must be a number of seconds above 0, or None to wait for ever")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def checked_settings(
    *,
    db: object,
    credentials: Credentials,
    ssl: object | None,
    client_name: object,
    response_timeout: object,
    failover_timeout: object,
    decode_responses: object,
    encoding: object,
    encoding_errors: object,
    protocol: object,
    max_connections: object,
    retry_writes: object = False,
    max_waiting: object = MAX_WAITING,
    wait_ready: object = False,
) -> ClientSettings:
    """What all clients share, each checked."""
    if isinstance(db, bool) or not isinstance(db, int) or db < 0:
        raise ConfigError("db", "must be a whole number from 0")
    if client_name is not None and (
        not isinstance(client_name, str)
        or not (client_name.isascii() and client_name.isprintable())
        or " " in client_name
    ):
        raise ConfigError("client_name", "must be printable ASCII text without spaces")
    if not isinstance(decode_responses, bool):
        raise ConfigError("decode_responses", "must be True or False")
    if not isinstance(encoding, str) or not isinstance(encoding_errors, str):
        raise ConfigError("encoding", "encoding and encoding_errors must be str")
    try:
        "a".encode(encoding)  # not "": that needs no encoding, so Python does not look for it
    except (LookupError, ValueError):
        raise ConfigError("encoding", "Python knows no encoding of this name") from None
    try:
        codecs.lookup_error(encoding_errors)
    except (LookupError, ValueError):
        raise ConfigError("encoding_errors", "Python knows no error handler of this name") from None
    if not (protocol is None or (type(protocol) is int and protocol in (2, 3))):
        raise ConfigError("protocol", "must be 2 or 3, or None for the newest that the server has")
    if not isinstance(retry_writes, bool):
        raise ConfigError("retry_writes", "must be True or False")
    if isinstance(max_waiting, bool) or not isinstance(max_waiting, int) or max_waiting < 1:
        raise ConfigError("max_waiting", "must be a whole number from 1")
    if not isinstance(wait_ready, bool):
        raise ConfigError("wait_ready", "must be True or False")
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise ConfigError("max_connections", "must be a whole number from 1")
    return ClientSettings(
        endpoint=Endpoint(credentials, ssl, db, client_name),
        response_timeout=checked_duration(response_timeout, "response_timeout"),
        failover_timeout=checked_duration(failover_timeout, "failover_timeout"),
        decode_responses=decode_responses,
        encoding=encoding,
        encoding_errors=encoding_errors,
        protocol=protocol,
        retry_writes=retry_writes,
        max_waiting=max_waiting,
        wait_ready=wait_ready,
        max_connections=max_connections,
    )


def checked_address_map(value: AddressMap | None) -> AddressMap | None:
    """What maps announced addresses to those to dial, if anything does."""
    if value is not None and not callable(value) and not hasattr(value, "get"):
        raise ConfigError("address_map", "must be a mapping or a function of (host, port)")
    return value


def mapped_address(address: Address, address_map: AddressMap | None) -> Address:
    """Where to dial for a server that the Sentinels announce at `address`."""
    if address_map is None:
        return address
    key = (address.host, address.port)
    there: object
    if isinstance(address_map, Mapping):
        there = cast("Mapping[tuple[str, int], object]", address_map).get(key, address)
    else:
        try:
            there = address_map(key)
        except Exception as error:
            raise ConfigError("address_map", f"raised {type(error).__name__} for {address}") from error
    return checked_address(there, "address_map")
