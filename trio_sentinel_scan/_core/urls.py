"""URLs: one text that says which client, where, and how to log in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from .config import DATA_PORT, SENTINEL_PORT, parse_host_port
from .errors import ConfigError
from .identity import Address

__all__ = ["ParsedURL", "parse_url"]


@dataclass(frozen=True, slots=True)
class ParsedURL:
    """A URL taken apart. `options` are keyword arguments for the client that `kind` names."""

    kind: str  # "redis", "sentinel" or "cluster"
    addresses: tuple[Address, ...]
    service: str | None
    # Repr is off: passwords live in here.
    options: dict[str, Any] = field(repr=False)


# scheme -> (kind of client, TLS)
_SCHEMES: Final = {
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "valkey": ("redis", False),
    "valkeys": ("redis", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "valkey+sentinel": ("sentinel", False),
    "valkeys+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "valkey+cluster": ("cluster", False),
    "valkeys+cluster": ("cluster", True),
}


def _boolean(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError


def _protocol(text: str) -> int:
    return {"2": 2, "3": 3}[text]


# The options that may stand behind "?", and how each is read.
_OPTIONS: Final = {
    "db": int,
    "username": str,
    "password": str,
    "client_name": str,
    "response_timeout": float,
    "failover_timeout": float,
    "decode_responses": _boolean,
    "encoding": str,
    "encoding_errors": str,
    "protocol": _protocol,
    "retry_writes": _boolean,
    "max_waiting": int,
    "wait_ready": _boolean,
    "max_connections": int,
}
_SENTINEL_OPTIONS: Final = {"sentinel_username": str, "sentinel_password": str, "sentinel_tls": _boolean}


def parse_url(url: object) -> ParsedURL:
    """Take a URL apart; ConfigError names the part that is wrong. The text itself is never repeated: it may have a
    password in it.

    ``redis://[user:password@]host[:port][/db]``, ``rediss://``, ``unix://[user:password@]/path[?db=n]``,
    ``redis+sentinel://[user:password@]host[:port],host[:port].../service[/db]``, ``rediss+sentinel://``; the user
    and password are the data nodes', the Sentinels' own are ``?sentinel_username=...&sentinel_password=...``.
    ``redis+cluster://[user:password@]host[:port],host[:port]...``, ``rediss+cluster://``: some nodes of a cluster.
    IPv6 addresses stand in brackets. ``valkey`` may stand for ``redis`` everywhere.
    """
    if not isinstance(url, str):
        raise ConfigError("url", f"must be str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    known = _SCHEMES.get(scheme.lower()) if separator else None
    if known is None:
        raise ConfigError("url", "the scheme must be one of " + ", ".join(f"{name}://" for name in _SCHEMES))
    kind, tls = known
    rest, _, fragment = rest.partition("#")
    if fragment:
        raise ConfigError("url", "has a fragment (#...); a # in a password is written %23")
    rest, _, query = rest.partition("?")
    # The last @ ends the user's part: one in a password need not be quoted.
    userinfo, at, place = rest.rpartition("@")
    options = _login(userinfo) if at else {}
    _read_options(query, kind, options)
    if kind == "unix":
        return ParsedURL("redis", (_socket_path(place),), None, options)
    members, _, path = place.partition("/")
    if tls:
        options["ssl"] = True
    if kind == "redis":
        if "," in members:
            raise ConfigError(
                "url",
                "has several addresses; a Sentinel service is redis+sentinel://host,host/service, and a cluster"
                " redis+cluster://host,host",
            )
        _read_db(path, options)
        return ParsedURL("redis", (_member(members or "localhost", DATA_PORT),), None, options)
    if kind == "cluster":
        _read_db(path, options)
        if options.pop("db", 0):
            raise ConfigError("url", "names a database, and a cluster has none but 0")
        return ParsedURL("cluster", _members(members, DATA_PORT), None, options)
    service, _, db = path.partition("/")
    if not service:
        raise ConfigError("url", "the service is missing: redis+sentinel://host:port,host:port/service")
    _read_db(db, options)
    # A scheme without TLS says nothing of the Sentinels: the caller may have.
    if tls or "sentinel_tls" in options:
        options["sentinel_ssl"] = options.pop("sentinel_tls", tls)
    return ParsedURL("sentinel", _members(members, SENTINEL_PORT), unquote(service), options)


def _login(userinfo: str) -> dict[str, Any]:
    # As in redis-py: "redis://alice@host" has a user and no password, "redis://:secret@host" a password alone.
    username, _, password = userinfo.partition(":")
    found: dict[str, Any] = {"password": unquote(password)} if password else {}
    if username:
        found["username"] = unquote(username)
    return found


def _socket_path(place: str) -> Address:
    if not place.startswith("/"):
        raise ConfigError("url", "the path of the Unix socket must be absolute: unix:///path/to.sock")
    return Address(unquote(place), 0)


def _members(text: str, default_port: int) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(_member(member, default_port) for member in text.split(",")))


def _member(text: str, default_port: int) -> Address:
    if not text or text.startswith("/"):
        raise ConfigError("url", "the list of addresses has an empty member: host:port,host:port")
    return parse_host_port(unquote(text), "url", default_port=default_port)


def _read_db(text: str, options: dict[str, Any]) -> None:
    text = text.removesuffix("/")
    if not text:
        return
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError("url", "the database must be a whole number: .../0")
    options.setdefault("db", int(text))


def _read_options(query: str, kind: str, options: dict[str, Any]) -> None:
    readers: dict[str, Any] = dict(_OPTIONS)
    if kind == "sentinel":
        readers.update(_SENTINEL_OPTIONS)
    # Not parse_qsl: it would make a space of each + in a password.
    for pair in query.split("&") if query else ():
        name, equals, text = map(unquote, pair.partition("="))
        if not equals:
            raise ConfigError("url", "the options must be ?name=value&name=value")
        reader = readers.get(name)
        if reader is None:
            # With an @ behind it, the ? may be one in a password: then this is no option's name.
            unknown = "such option" if "@" in query else f"option {name!r}"
            raise ConfigError("url", f"knows no {unknown}; there are {', '.join(readers)}; a ? in a password is %3F")
        options[name] = _attempt(reader, text)
        if options[name] is None:
            raise ConfigError("url", f"the option {name} cannot be read")


def _attempt(read: Callable[[str], Any], text: str) -> Any:
    """What `read` makes of it, or None. What it raises repeats the text, and would go along as an error's context."""
    try:
        return read(text)
    except (ValueError, KeyError):
        return None
