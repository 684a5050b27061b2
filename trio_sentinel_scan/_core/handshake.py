"""The first words on a connection: one pipelined round trip that logs in, names us, and learns who answers.

HELLO comes first, so that an error that a server sends unasked ("max number of clients reached") is never taken for
the answer to a password. A server without HELLO gets the same in RESP2, in a second round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis import exceptions as redis_errors

from .cursor import CursorFormat, cursor_format_of
from .errors import AuthenticationFailed, ConfigError, ProtocolError, RoleMismatch, ServerConnectionError
from .identity import Address, Role, ServerIdentity
from .replies import as_fields, as_list, as_port, as_text, printable
from .verdicts import Verdict, error_code, verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .wire import Argument, Reply

__all__ = ["Greeting", "Handshake", "read_role", "read_run_id", "unfit_for_scanning"]

_LIBRARY: Final = "trio-sentinel-scan"


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server told of itself in the handshake."""

    identity: ServerIdentity
    role: Role
    cursor_format: CursorFormat
    protocol: int
    # INFO server, or empty where it is forbidden.
    info: Mapping[str, str]


class Handshake:
    """One connection's handshake. Send `commands`, give the replies to `read`; None from it means: once more."""

    def __init__(
        self,
        address: Address,
        *,
        login: tuple[str, ...],
        db: int,
        client_name: str | None,
        protocol: int | None,
        version: str,
        wants_master: bool = False,
    ) -> None:
        """`login` is (), (password,) or (username, password); `protocol` 2 or 3, or None for the newest there is.

        `wants_master`: a server that is no master, or stops being one, is asked to say so (-REDIRECT) in place of
        answering from a replica's data. Valkey knows how to since 8.0; what others say to it does not matter.
        """
        self._address = address
        self._login = login
        self._db = db
        self._client_name = client_name
        self._may_fall_back = protocol is None
        self._protocol = protocol or 3
        self._version = version
        self._wants_master = wants_master

    def commands(self) -> list[tuple[Argument, ...]]:
        """What to send, all at once."""
        found: list[tuple[Argument, ...]] = []
        if self._protocol == 3:
            hello: list[Argument] = ["HELLO", 3]
            if self._login:
                hello += ["AUTH", *(self._login if len(self._login) == 2 else ("default", *self._login))]
            if self._client_name is not None:
                hello += ["SETNAME", self._client_name]
            found.append(tuple(hello))
        else:
            if self._login:
                found.append(("AUTH", *self._login))
            if self._client_name is not None:
                found.append(("CLIENT", "SETNAME", self._client_name))
        if self._db:
            found.append(("SELECT", self._db))
        found += [
            ("ROLE",),
            ("INFO", "server"),
            ("CLIENT", "SETINFO", "LIB-NAME", _LIBRARY),
            ("CLIENT", "SETINFO", "LIB-VER", self._version),
        ]
        if self._wants_master:
            found.append(("CLIENT", "CAPA", "redirect"))
        return found

    def read(self, replies: Sequence[Reply]) -> Greeting | None:
        """What the server said; None if it knows no HELLO and `commands` are to be sent again as they are now.

        Raises AuthenticationFailed, ConfigError (the database), RoleMismatch (a Sentinel), ServerConnectionError.
        """
        first = replies[0]
        # What a server says unasked, and to everybody, before it hangs up.
        if isinstance(first, redis_errors.RedisError) and (
            verdict_of(first) is Verdict.RECONNECT or error_code(first) == "DENIED"
        ):
            raise ServerConnectionError(f"{self._address} turns connections away: {first}")
        by_command = dict(zip(((c[0], c[1] if len(c) > 1 else "") for c in self.commands()), replies, strict=True))
        hello = by_command.get(("HELLO", 3), {})
        if isinstance(hello, redis_errors.RedisError):
            if verdict_of(hello) is Verdict.UNAUTHENTICATED:
                raise self._not_authenticated(hello)
            if not self._may_fall_back:
                msg = f"{self._address} does not speak RESP3, which protocol=3 asks for: {hello}"
                raise ServerConnectionError(msg)
            self._protocol, self._may_fall_back = 2, False
            return None
        for (name, _), reply in by_command.items():
            if isinstance(reply, redis_errors.RedisError):
                if verdict_of(reply) is Verdict.UNAUTHENTICATED or name == "AUTH":
                    raise self._not_authenticated(reply)
                if verdict_of(reply) is Verdict.WAIT:
                    msg = f"{self._address} is not ready: {error_code(reply)}"
                    raise ServerConnectionError(msg)
        said = as_fields(hello)
        info = read_info(by_command["INFO", "server"])
        role = read_role(by_command["ROLE", ""], hello_role=said.get("role", ""))
        if role.kind == "sentinel" or said.get("mode") == "sentinel":
            msg = f"{self._address} is a Sentinel, not a data node: give it to SentinelClient, or redis+sentinel://"
            raise RoleMismatch(msg)
        selected = by_command.get(("SELECT", self._db))
        if isinstance(selected, redis_errors.RedisError):
            raise ConfigError("db", f"{self._address} refuses to select database {self._db}: {selected}")
        return Greeting(
            identity=ServerIdentity(info.get("run_id") or None, self._address),
            role=role,
            cursor_format=cursor_format_of(info, said.get("mode")),
            protocol=self._protocol,
            info=info,
        )

    def _not_authenticated(self, error: redis_errors.RedisError) -> AuthenticationFailed:
        what = "refused the username or password" if self._login else "wants a password and was given none"
        return AuthenticationFailed(f"{self._address} {what}: {error}")


def read_info(reply: Reply) -> dict[str, str]:
    """INFO's text as fields and values; empty if the reply is an error (it is forbidden)."""
    if isinstance(reply, Exception) or not isinstance(reply, (bytes, str)):
        return {}
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    fields = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in fields if colon}


def read_run_id(reply: Reply) -> str | None:
    """The `run_id` in a reply to INFO server; None where it may not be read."""
    return read_info(reply).get("run_id") or None


def read_role(reply: Reply, *, hello_role: str = "") -> Role:
    """A reply to ROLE; where it is an error (forbidden), what HELLO said stands in for it."""
    said = as_list(reply)
    if not said:
        return Role({"replica": "slave"}.get(hello_role, printable(hello_role)))
    kind = printable(as_text(said[0]))
    if kind == "master":
        replicas = as_list(said[2]) if len(said) > 2 else None
        try:
            listed = [(as_text(entry[0]), as_text(entry[1])) for entry in replicas or []]
            # Port 0: whoever takes a copy and does not say where it listens (`redis-cli --replica`). It is no replica.
            return Role(kind, frozenset(Address(host, as_port(port)) for host, port in listed if port != "0"))
        except (IndexError, KeyError, TypeError, ValueError):
            raise ProtocolError("a reply to ROLE lists what is no replica") from None
    if kind == "slave":
        return Role(kind, link=as_text(said[3]) if len(said) > 3 else "")
    return Role(kind)


def unfit_for_scanning(role: Role, address: Address, *, wants_master: bool, wants_replica: bool = False) -> str:
    """Why a server in this role may not be scanned, or ""."""
    if wants_replica and role.kind != "slave":
        said = f"says that its role is {role.kind}" if role.kind else "does not tell its role"
        return f"{address} was named as a replica and {said}"
    if wants_master and role.kind not in {"master", ""}:
        return f"{address} was named as the master and says that its role is {role.kind}"
    if role.kind == "slave" and not role.is_synced_replica:
        # Such a replica answers SCAN with an empty result and no error.
        return f"the replica {address} is not in sync with its master (its link is {role.link!r})"
    return ""
