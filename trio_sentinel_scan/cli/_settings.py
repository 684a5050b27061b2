"""From what the user said (options, environment, URL) to a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .._core.errors import ConfigError
from .._core.urls import ParsedURL, parse_url
from .._trio.client import RedisClient, SentinelClient
from .._trio.cluster import ClusterClient
from ._tls import TlsOptions

Client: TypeAlias = RedisClient | SentinelClient | ClusterClient

# redis-cli's own name; and one of the same make for what redis-cli has no name for.
PASSWORD_VARIABLE: Final = "REDISCLI_AUTH"  # noqa: S105 (a variable's name)
SENTINEL_PASSWORD_VARIABLE: Final = "REDISCLI_SENTINEL_AUTH"  # noqa: S105 (a variable's name)

_CLIENT_NAME: Final = "trio-sentinel-scan"
_SECURED: Final = {"redis": "rediss", "valkey": "valkeys"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the servers are and how to log in. None: not said."""

    # Not shown: there may be a password in it.
    url: str = field(repr=False)
    db: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    response_timeout: float | None = None
    failover_timeout: float | None = None


def make_client(server: ServerOptions, tls: TlsOptions, environment: Mapping[str, str]) -> Client:
    """The client that was asked for. What an option says counts first, then the URL, then the environment.

    Raises ConfigError.
    """
    parsed = parse_url(_with_tls(server.url) if tls.tls else server.url)
    arguments: dict[str, Any] = {
        "client_name": _CLIENT_NAME,
        **_from_environment(parsed, environment),
        **parsed.options,
        **_from_options(server),
        # Keys are bytes, whatever the URL has to say to other programs.
        "decode_responses": False,
    }
    _set_tls(arguments, parsed, tls)
    if parsed.kind == "cluster":
        if arguments.pop("db", 0):
            raise ConfigError("db", "must be 0: a cluster has no other database")
        return ClusterClient(parsed.addresses, **arguments)
    if parsed.service is None:
        return RedisClient(parsed.addresses[0], **arguments)
    return SentinelClient(parsed.addresses, parsed.service, **arguments)


def has_password(url: str) -> bool:
    """Whether a password stands in the URL. (Nothing is said of a URL that is wrong: that is for `make_client`.)"""
    try:
        options = parse_url(url).options
    except ConfigError:
        return False
    return "password" in options or "sentinel_password" in options


def _from_environment(parsed: ParsedURL, environment: Mapping[str, str]) -> dict[str, str]:
    found = {"password": environment.get(PASSWORD_VARIABLE)}
    if parsed.service is not None:
        found["sentinel_password"] = environment.get(SENTINEL_PASSWORD_VARIABLE)
    return {name: value for name, value in found.items() if value}


def _from_options(server: ServerOptions) -> dict[str, Any]:
    said = {
        "db": server.db,
        "username": server.user,
        "password": server.password,
        "response_timeout": server.response_timeout,
        "failover_timeout": server.failover_timeout,
    }
    return {name: value for name, value in said.items() if value is not None}


def _with_tls(url: str) -> str:
    """``redis://`` as ``rediss://``, ``redis+sentinel://`` as ``rediss+sentinel://``, and so on."""
    scheme, separator, rest = url.partition("://")
    product, plus, kind = scheme.lower().partition("+")
    if product == "unix":
        raise ConfigError("tls", "is not for Unix sockets")
    return f"{_SECURED.get(product, product)}{plus}{kind}{separator}{rest}"


def _set_tls(arguments: dict[str, Any], parsed: ParsedURL, tls: TlsOptions) -> None:
    names = [name for name in ("ssl", "sentinel_ssl") if parsed.options.get(name)]
    if not names:
        for option in tls.details:
            raise ConfigError(option.removeprefix("--"), "wants --tls, or a URL with TLS such as rediss://")
        return
    context = tls.context()
    for name in names:
        arguments[name] = context
