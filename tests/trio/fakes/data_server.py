"""What a data server answers: one process's view of its keys, its role and its users. No event loop, no clock."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from .resp import Error, Many, Push, Simple
from .table import Table

__all__ = ["DataServer", "Session", "User"]

OK: Final = Simple("OK")
# A collection of no more items is kept as a list, which comes as a whole.
_SMALL: Final = 16
_NO_CURSOR: Final = Error("ERR invalid cursor")
_WRONGTYPE: Final = Error("WRONGTYPE Operation against a key holding the wrong kind of value")
# Answered while the data set is being loaded.
_WHILE_LOADING: Final = frozenset({"AUTH", "CLIENT", "HELLO", "INFO", "ROLE", "SELECT"})
_WRITES: Final = frozenset({"BLPOP", "DEL", "FLUSHALL", "INCRBY", "SET"})
_READS: Final = frozenset({"DBSIZE", "GET", "MGET", "SCAN"})
_NEVER_QUEUED: Final = frozenset({"DISCARD", "EXEC", "MULTI", "WATCH"})
_NOT_LOGGED_IN: Final = Error("NOAUTH Authentication required.")
_WRONG: Final = Error("WRONGPASS invalid username-password pair or user is disabled.")


@dataclass
class Session:
    """One connection as the program sees it."""

    push: Callable[[Any], None]
    # Whether neither side has closed it.
    is_open: Callable[[], bool] = lambda: True
    protocol: int = 2
    db: int = 0
    user: str | None = None
    name: str = ""
    library: str = ""
    # CLIENT CAPA redirect.
    redirects: bool = False
    channels: set[str] = field(default_factory=set)
    # Between MULTI and EXEC: what is to be run. And whether something of it was refused.
    queue: list[list[bytes]] | None = None
    refused: bool = False
    # What the watched keys held.
    watched: dict[tuple[int, bytes], Value | None] = field(default_factory=dict)
    # Of a data server's: (b"" or b"p", the channel or pattern).
    subscriptions: set[tuple[bytes, bytes]] = field(default_factory=set)


@dataclass
class User:
    """One ACL user."""

    password: str | None = None
    # Commands that it may not use, such as "SCAN".
    forbidden: frozenset[str] = frozenset()
    # Channels and patterns that it may not subscribe to.
    secret: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Value:
    """What a key holds; a list or a hash is as empty here as its name is all that SCAN's TYPE looks at."""

    data: bytes
    type: str = "string"
    # Of a hash, a set or a sorted set: its fields or members, and what belongs to each.
    items: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    # As TTL has it.
    ttl: int = -1


class DataServer:
    """One server's data and its present process. `restart` gives it another process, with the same data."""

    def __init__(self, address: tuple[str, int], rng: Random) -> None:
        self.address = address
        self._rng = rng
        self.data: dict[int, dict[bytes, Value]] = {}
        self.users: dict[str, User] = {"default": User()}
        self.version = "7.0.15"
        # Fields of INFO server beside the usual ones, such as another product's.
        self.more_info: dict[str, str] = {}
        self.knows_hello = True
        self.knows_capa = False
        self.databases = 16
        # None of a master; of a replica where its master is, the state of its link, and ...
        self.master: tuple[str, int] | None = None
        self.link = "connected"
        # ... of a master its replicas, as ROLE lists them.
        self.replicas: list[tuple[str, int]] = []
        self.loading = False
        # Whether keys are evicted by how often they are used, or else by when.
        self.lfu = False
        # Writes are told to whom? (The world replicates.)
        self.on_write: Callable[[int, bytes, Value | None], None] = lambda db, key, value: None
        self.run_id = ""
        # Valkey's hash-seed: None for a server that knows none, "" for one that has none set. Read at the start.
        self.hash_seed: str | None = None
        self._tables: dict[int, Table] = {}
        self._sessions: list[Session] = []
        self.restart()

    def restart(self) -> None:
        """A new process: another run_id, another hash seed."""
        self.run_id = f"{self._rng.getrandbits(160):040x}"
        self.scripts: set[bytes] = set()
        self._seed = self._rng.randbytes(16)
        if self.hash_seed:
            self._seed = self.hash_seed.encode()
        self._sessions.clear()
        self._tables = {}
        for db, keys in self.data.items():
            for key in keys:
                self._table(db).add(key)

    # ---- the data ------------------------------------------------------------------------------------------------

    def put(self, db: int, key: bytes, value: Value | None) -> None:
        """Set a key, or with None delete it."""
        keys = self.data.setdefault(db, {})
        if value is None:
            if keys.pop(key, None) is not None:
                self._table(db).remove(key)
            return
        if key not in keys:
            self._table(db).add(key)
        keys[key] = value

    def copy_from(self, other: DataServer) -> None:
        """A full synchronisation. The process, and so its seed, stays."""
        self.data = {db: dict(keys) for db, keys in other.data.items()}
        self._reload()

    def empty(self) -> None:
        """Forget everything, as a replica does before a full synchronisation."""
        self.data = {}
        self._reload()

    def _reload(self) -> None:
        self._tables = {}
        for db, keys in self.data.items():
            for key in keys:
                self._table(db).add(key)

    def _table(self, db: int) -> Table:
        if db not in self._tables:
            self._tables[db] = Table(self._seed)
        return self._tables[db]

    # ---- commands ------------------------------------------------------------------------------------------------

    def joined(self, session: Session) -> None:
        """A connection was made."""
        self._sessions.append(session)
        default = self.users["default"]
        session.user = "default" if default.password is None else None

    def answer(self, session: Session, words: list[bytes]) -> Any:
        """The reply to one command."""
        name = words[0].decode().upper()
        if (refusal := self._refusal(session, name, words)) is not None:
            session.refused = True
            return refusal
        if session.queue is not None and name not in _NEVER_QUEUED:
            session.queue.append(words)
            return Simple("QUEUED")
        return getattr(self, f"_do_{name.lower()}")(session, *words[1:])

    def _refusal(self, session: Session, name: str, words: list[bytes]) -> Error | None:
        if not hasattr(self, f"_do_{name.lower()}") or (name == "HELLO" and not self.knows_hello):
            args = " ".join(f"'{word.decode(errors='replace')}'" for word in words[1:])
            return Error(f"ERR unknown command '{name}', with args beginning with: {args} ")
        if session.user is None and name not in {"AUTH", "HELLO"}:
            return _NOT_LOGGED_IN
        if session.user is not None and name in self.users[session.user].forbidden:
            return Error(f"NOPERM User {session.user} has no permissions to run the '{name.lower()}' command")
        if self.loading and name not in _WHILE_LOADING:
            return Error("LOADING Redis is loading the dataset in memory")
        if self.master is not None and session.redirects and name in _WRITES | _READS:
            return Error(f"REDIRECT {self.master[0]}:{self.master[1]}")
        if self.master is not None and name in _WRITES:
            return Error("READONLY You can't write against a read only replica.")
        return None

    def _do_hello(self, session: Session, protocol: bytes = b"", *rest: bytes) -> Any:
        options = list(rest)
        while options:
            option = options.pop(0).upper()
            if option == b"AUTH":
                if (refused := self._log_in(session, options.pop(0), options.pop(0))) is not OK:
                    return refused
            elif option == b"SETNAME":
                session.name = options.pop(0).decode()
        if session.user is None:
            return Error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO")
        session.protocol = int(protocol or session.protocol)
        return {
            b"server": b"redis",
            b"version": self.version.encode(),
            b"proto": session.protocol,
            b"id": 7,
            b"mode": b"standalone",
            b"role": b"master" if self.master is None else b"replica",
            b"modules": [],
        }

    def _do_auth(self, session: Session, *words: bytes) -> Any:
        user, password = words if len(words) == 2 else (b"default", *words)
        return self._log_in(session, user, password)

    def _log_in(self, session: Session, name: bytes, password: bytes) -> Any:
        user = self.users.get(name.decode())
        if user is None or (user.password is not None and user.password.encode() != password):
            return _WRONG
        session.user = name.decode()
        return OK

    def _do_client(self, session: Session, subcommand: bytes, *args: bytes) -> Any:
        if subcommand == b"SETNAME":
            session.name = args[0].decode()
        elif subcommand == b"SETINFO":
            session.library += args[1].decode() + " "
        elif subcommand == b"CAPA":
            if not self.knows_capa:
                return Error("ERR unknown subcommand 'CAPA'. Try CLIENT HELP.")
            session.redirects = b"redirect" in args
        return OK

    def _do_select(self, session: Session, db: bytes) -> Any:
        if int(db) >= self.databases:
            return Error("ERR DB index is out of range")
        session.db = int(db)
        return OK

    def _do_multi(self, session: Session) -> Any:
        session.queue, session.refused = [], False
        return OK

    def _do_watch(self, session: Session, *keys: bytes) -> Any:
        for key in keys:
            session.watched[session.db, key] = self.data.get(session.db, {}).get(key)
        return OK

    def _do_unwatch(self, session: Session) -> Any:
        session.watched = {}
        return OK

    def _do_discard(self, session: Session) -> Any:
        session.queue, session.watched = None, {}
        return OK

    def _do_exec(self, session: Session) -> Any:
        queue, watched = session.queue, session.watched
        session.queue, session.watched = None, {}
        if queue is None:
            return Error("ERR EXEC without MULTI")
        if session.refused:
            return Error("EXECABORT Transaction discarded because of previous errors.")
        if any(self.data.get(db, {}).get(key) != value for (db, key), value in watched.items()):
            return None
        return [self.answer(session, words) for words in queue]

    def _do_script(self, session: Session, subcommand: bytes, *args: bytes) -> Any:
        sha = hashlib.sha1(args[0]).hexdigest().encode()
        self.scripts.add(sha)
        return sha

    def _do_evalsha(self, session: Session, sha: bytes, keys: bytes, *args: bytes) -> Any:
        """Every script does the same: it deletes the key that it is given if that holds the argument, as a lock's."""
        if sha not in self.scripts:
            return Error("NOSCRIPT No matching script. Please use EVAL.")
        if len(args) == 2 and self._do_get(session, args[0]) == args[1]:
            return self._do_del(session, args[0])
        return b"of a script"

    def _do_wait(self, session: Session, replicas: bytes, timeout: bytes) -> Any:
        return len(self.replicas)

    def _do_blpop(self, session: Session, key: bytes, timeout: bytes) -> Any:
        """To be held: what a list holds is not known here."""
        return [key, b"popped"]

    def _do_role(self, session: Session) -> Any:
        if self.master is None:
            return ["master", 1, [[host, str(port), "1"] for host, port in self.replicas]]
        host, port = self.master
        return ["slave", host, port, self.link, 1]

    def _do_info(self, session: Session, section: bytes = b"") -> Any:
        fields = {"redis_version": self.version, "redis_mode": "standalone", "run_id": self.run_id, **self.more_info}
        return "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())

    def _do_scan(self, session: Session, cursor: bytes, *options: bytes) -> Any:
        if not cursor.isdigit():
            return _NO_CURSOR
        given = {options[i].upper(): options[i + 1] for i in range(0, len(options), 2)}
        after, keys = self._table(session.db).scan(int(cursor), int(given.get(b"COUNT", b"10")))
        values = self.data.get(session.db, {})
        if (wanted := given.get(b"TYPE")) is not None:
            keys = [key for key in keys if values[key].type == wanted.decode()]
        if (pattern := given.get(b"MATCH")) is not None:
            matches = re.compile(fnmatch.translate(pattern.decode("latin-1"))).match
            keys = [key for key in keys if matches(key.decode("latin-1"))]
        return [str(after), keys]

    def _do_config(self, session: Session, subcommand: bytes, *names: bytes) -> Any:
        return {} if self.hash_seed is None else {b"hash-seed": self.hash_seed}

    def _do_hscan(self, session: Session, key: bytes, cursor: bytes, *options: bytes) -> Any:
        return self._scan_items(session, "hash", key, cursor, *options)

    def _do_sscan(self, session: Session, key: bytes, cursor: bytes, *options: bytes) -> Any:
        return self._scan_items(session, "set", key, cursor, *options)

    def _do_zscan(self, session: Session, key: bytes, cursor: bytes, *options: bytes) -> Any:
        return self._scan_items(session, "zset", key, cursor, *options)

    def _scan_items(self, session: Session, kind: str, key: bytes, cursor: bytes, *options: bytes) -> Any:
        if not cursor.isdigit():
            return _NO_CURSOR
        if b"NOVALUES" in options and (self.version < "7.4" or kind != "hash"):
            return Error("ERR syntax error")
        with_values = kind != "set" and b"NOVALUES" not in options
        options = tuple(word for word in options if word != b"NOVALUES")
        given = {options[i].upper(): options[i + 1] for i in range(0, len(options), 2)}
        value = self.data.get(session.db, {}).get(key)
        if value is None:
            return ["0", []]
        if value.type != kind:
            return _WRONGTYPE
        after, names = 0, list(value.items)
        if len(names) > _SMALL:
            # Where an item is depends on the process's seed alone, so a table made anew does as well.
            table = Table(self._seed)
            for name in names:
                table.add(name)
            after, names = table.scan(int(cursor), int(given.get(b"COUNT", b"10")))
        if (pattern := given.get(b"MATCH")) is not None:
            matches = re.compile(fnmatch.translate(pattern.decode("latin-1"))).match
            names = [name for name in names if matches(name.decode("latin-1"))]
        return [
            str(after),
            [word for name in names for word in ((name, value.items[name]) if with_values else (name,))],
        ]

    def _do_hlen(self, session: Session, key: bytes) -> Any:
        return self._size(session, "hash", key)

    def _do_scard(self, session: Session, key: bytes) -> Any:
        return self._size(session, "set", key)

    def _do_zcard(self, session: Session, key: bytes) -> Any:
        return self._size(session, "zset", key)

    def _size(self, session: Session, kind: str, key: bytes) -> Any:
        value = self.data.get(session.db, {}).get(key)
        if value is None:
            return 0
        return len(value.items) if value.type == kind else _WRONGTYPE

    def _do_ping(self, session: Session) -> Any:
        return [b"pong", b""] if session.protocol == 2 and session.subscriptions else Simple("PONG")

    # ---- Pub/Sub -------------------------------------------------------------------------------------------------

    def publish(self, channel: bytes, *messages: bytes) -> None:
        """Say something to whoever has subscribed."""
        for data in messages:
            for session in self._sessions:
                for kind, name in sorted(session.subscriptions):
                    if kind == b"" and name == channel:
                        session.push(Push([b"message", channel, data]))
                    elif kind == b"p" and fnmatch.fnmatchcase(channel.decode(), name.decode()):
                        session.push(Push([b"pmessage", name, channel, data]))

    def _do_subscribe(self, session: Session, *names: bytes) -> Any:
        return self._subscribe(session, b"", names)

    def _do_psubscribe(self, session: Session, *names: bytes) -> Any:
        return self._subscribe(session, b"p", names)

    def _subscribe(self, session: Session, kind: bytes, names: tuple[bytes, ...]) -> Any:
        if session.user is not None and self.users[session.user].secret & set(names):
            return Error("NOPERM No permissions to access a channel")
        answers = Many()
        for name in names:
            session.subscriptions.add((kind, name))
            answers.append(Push([kind + b"subscribe", name, len(session.subscriptions)]))
        return answers

    def _do_unsubscribe(self, session: Session, *names: bytes) -> Any:
        return self._unsubscribe(session, b"", names)

    def _do_punsubscribe(self, session: Session, *names: bytes) -> Any:
        return self._unsubscribe(session, b"p", names)

    def _unsubscribe(self, session: Session, kind: bytes, names: tuple[bytes, ...]) -> Any:
        answers = Many()
        for name in names:
            session.subscriptions.discard((kind, name))
            answers.append(Push([kind + b"unsubscribe", name, len(session.subscriptions)]))
        return answers

    def _do_dbsize(self, session: Session) -> Any:
        return len(self._table(session.db))

    def _do_get(self, session: Session, key: bytes) -> Any:
        value = self.data.get(session.db, {}).get(key)
        return None if value is None else value.data

    def _do_type(self, session: Session, key: bytes) -> Any:
        value = self.data.get(session.db, {}).get(key)
        return Simple("none" if value is None else value.type)

    def _do_ttl(self, session: Session, key: bytes) -> Any:
        value = self.data.get(session.db, {}).get(key)
        return -2 if value is None else value.ttl

    def _do_memory(self, session: Session, subcommand: bytes, key: bytes) -> Any:
        value = self._do_get(session, key)
        return None if value is None else 50 + len(key) + len(value)

    def _do_object(self, session: Session, subcommand: bytes, key: bytes | None = None) -> Any:
        """How long ago it was used, and how often, is the same for all keys."""
        if key is None:
            return Error("ERR unknown subcommand or wrong number of arguments")
        if self._do_get(session, key) is None:
            return None
        if self.lfu is not (subcommand == b"FREQ"):
            return Error(f"ERR An {'LFU' if self.lfu else 'LRU'} maxmemory policy is selected, this is not tracked.")
        return 7

    def _do_mget(self, session: Session, *keys: bytes) -> Any:
        return [self._do_get(session, key) for key in keys]

    def _do_set(self, session: Session, key: bytes, data: bytes, *options: bytes) -> Any:
        if b"NX" in options and key in self.data.get(session.db, {}):
            return None
        self._write(session.db, key, Value(data))
        return OK

    def _do_incrby(self, session: Session, key: bytes, by: bytes) -> Any:
        number = int(self._do_get(session, key) or b"0") + int(by)
        self._write(session.db, key, Value(b"%d" % number))
        return number

    def _do_del(self, session: Session, *keys: bytes) -> Any:
        there = [key for key in keys if key in self.data.get(session.db, {})]
        for key in there:
            self._write(session.db, key, None)
        return len(there)

    def _do_eval(self, session: Session, *args: bytes) -> Any:
        return Error("READONLY You can't write against a read only replica. script: on @user_script:1.")

    def _write(self, db: int, key: bytes, value: Value | None) -> None:
        self.put(db, key, value)
        self.on_write(db, key, value)
