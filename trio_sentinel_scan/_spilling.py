"""Seen keys on disk: exact, in constant memory, and still there for a scan that is resumed in another process.

The library is SQLite, in one file that nobody else may open meanwhile. Each key is kept with the number that the store
had when it was marked, so that going back to an earlier number is to delete the keys with later ones, no matter which
transactions they came in. Numbers that were rolled back are never given again: what is left of them is a gap.
"""

from __future__ import annotations

import os
import secrets
import stat
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._core.errors import ConfigError, SeenKeysUnavailable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Iterable, Sequence
    from types import ModuleType, TracebackType
    from typing import Self

__all__ = ["SpillingSeen"]

# "tsss", which tells these files from all other databases.
_APPLICATION: Final = 0x74737373
_VERSION: Final = 1
_NAME_SIZE: Final = 8
# The database's cache, in KiB: about what a store takes of memory.
_CACHE: Final = 16 * 1024
# So many keys are committed together, so that the log beside the file stays small. What is a multiple of it takes
# longer at once, and what is a fraction writes the same parts of the file again and again.
_MOST_UNCOMMITTED: Final = 50_000
# How many keys are looked up by one statement. A power of two.
_LOOKED_UP: Final = 256

# No database is smaller.
_LEAST_SIZE: Final = 512
_NO_STORE: Final = "is not a store of seen keys; it was left as it is"

_TABLES: Final = (
    "CREATE TABLE seen (key BLOB PRIMARY KEY NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID",
    # Numbers that were rolled back, from the first to the last.
    "CREATE TABLE gaps (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    # top: the highest number ever given. kind: of what type the keys are, "bytes" or "str".
    "CREATE TABLE store (name BLOB NOT NULL, number INTEGER NOT NULL, top INTEGER NOT NULL, keys INTEGER, kind TEXT)",
)


class SpillingSeen:
    """A filter on disk, exact: for what does not fit in memory, and for scans that go on in another process.

    ::

        with SpillingSeen("seen.db") as seen:
            async with client.open_scan(dedupe=seen, resume=text) as pages: ...

    - `path`: the file, made if it is not there, readable for its owner alone (it holds the names of keys). It belongs
      on a disk of this machine. None: a file that has no name, in the system's folder for temporary ones (TMPDIR),
      which is gone with this object.

    A checkpoint that is made with it commits it, and a scan that is resumed from that checkpoint rolls it back to it:
    so each key is handed out once over all of them. A scan without `resume` wants a store that is empty: see `clear`.
    It serves one scan at a time, and one process: while it is open, nobody else can open it.

    It takes about 20 MB of memory for any number of keys, and on disk about 10 bytes for a key beside its name. Reading
    and writing is done while a page is received, in the event loop, and a page may take tens of milliseconds, one with
    a commit in it some hundred: other tasks wait for as long.

    Close it when it is not needed any more. What was not closed, or went with its process, is as it was when it was
    last committed. When the disk is full or fails, the scan ends with a `ScanError` and this is closed.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        """Raises ConfigError if `path` is no place for a store, is in use, or is a file of another kind or version."""
        self._path = None if path is None else _checked_path(path)
        self._connection: sqlite3.Connection | None = _connect(self._path)
        # Whoever leaves it to Python to tidy up is not warned of it: nothing is lost that was promised.
        self._finalizer = weakref.finalize(self, self._connection.close)
        # Why it cannot be used any more, once it cannot.
        self._problem = ""
        self._cause: Exception | None = None
        # Keys marked since the last commit.
        self._uncommitted = 0
        try:
            self._open(self._connection)
        except BaseException:
            self._finalizer()
            raise

    def _open(self, connection: sqlite3.Connection) -> None:
        try:
            _prepare(connection, is_temporary=self._path is None)
            (self._name, self._number, self._top, self._keys, self._kind) = connection.execute(
                "SELECT name, number, top, keys, kind FROM store"
            ).fetchone()
        except _sqlite().Error as error:
            raise ConfigError("path", _what_is_wrong(error)) from error

    # ---- what a scan asks of it ---------------------------------------------------------------------------------

    def unseen(self, keys: Sequence[Any]) -> list[Any]:
        """Those of `keys` that were never marked, in their order, each once."""
        unique = list(dict.fromkeys(keys))
        written = self._written(unique)
        seen: set[bytes] = set()
        with self._using() as connection:
            for start in range(0, len(written), _LOOKED_UP):
                these = written[start : start + _LOOKED_UP]
                # In sizes that are powers of two, so that there are few statements, which the driver keeps.
                size = 1 << (len(these) - 1).bit_length()
                these += these[-1:] * (size - len(these))
                places = ",".join("?" * size)
                query = f"SELECT key FROM seen WHERE key IN ({places})"  # noqa: S608 (question marks, nothing else)
                seen.update(key for (key,) in connection.execute(query, these))
        return [key for key, data in zip(unique, written, strict=True) if data not in seen]

    def mark(self, keys: Iterable[Any]) -> None:
        """These are being handed out now."""
        given = list(keys)
        written = self._written(given)
        if not written:
            return
        with self._changing() as connection:
            number = self._top = self._top + 1
            # Sorted, they are beside each other in the file.
            rows = [(data, number) for data in sorted(written)]
            self._keys += connection.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).rowcount
            self._kind = self._kind or type(given[0]).__name__
            self._uncommitted += len(rows)
            self._number = number
        if self._uncommitted >= _MOST_UNCOMMITTED:
            self.commit()

    @property
    def name(self) -> bytes:
        """Eight bytes, drawn by lot when the store was made or cleared."""
        return bytes(self._name)

    @property
    def number(self) -> int:
        """Grows with each page of keys that is marked; 0 for a store that has none."""
        return int(self._number)

    def commit(self) -> None:
        """Keep what is marked, come what may: it is on disk when this returns."""
        if self._in_use.in_transaction:
            with self._changing() as connection:
                self._write_down(connection)

    def rollback(self, number: int) -> None:
        """Forget what was marked since `number` was that. ValueError if it never was, or was rolled back."""
        with self._using() as connection:
            # (What is out of bounds may be too much for the database.)
            known = (
                0 <= number <= self._number
                and not connection.execute("SELECT 1 FROM gaps WHERE ? BETWEEN first AND last", (number,)).fetchone()
            )
        if not known:
            raise ValueError("this store never was at that number, or was rolled back to an earlier one")
        if number == self._top:
            self.commit()
            return
        with self._changing() as connection:
            self._keys -= connection.execute("DELETE FROM seen WHERE number > ?", (number,)).rowcount
            connection.execute("DELETE FROM gaps WHERE first > ?", (number,))
            connection.execute("INSERT INTO gaps VALUES (?, ?)", (number + 1, self._top))
            self._number = number
            self._write_down(connection)

    # ---- what its owner asks of it ------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget everything, for a scan that begins anew. Checkpoints made with it until now are good no more."""
        with self._changing() as connection:
            connection.execute("DELETE FROM seen")
            connection.execute("DELETE FROM gaps")
            self._name, self._kind = secrets.token_bytes(_NAME_SIZE), None
            self._number = self._top = self._keys = 0
            self._write_down(connection)

    def close(self) -> None:
        """Commit, and close the file. Nothing happens if it is closed."""
        if self._connection is None:
            return
        self.commit()
        self._end("is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._keys)

    def __repr__(self) -> str:
        where = "a temporary file" if self._path is None else repr(self._path)
        return f"<SpillingSeen of {self._keys} keys in {where}{self._problem and ', which ' + self._problem}>"

    # ---- inside -------------------------------------------------------------------------------------------------

    def _write_down(self, connection: sqlite3.Connection) -> None:
        """Commit, with the store's own figures."""
        connection.execute(
            "UPDATE store SET name = ?, number = ?, top = ?, keys = ?, kind = ?",
            (self._name, self._number, self._top, self._keys, self._kind),
        )
        connection.execute("COMMIT")
        self._uncommitted = 0

    def _written(self, keys: list[Any]) -> list[bytes]:
        """The keys as they are in the file."""
        for kind in {*map(type, keys)}:
            if kind not in (bytes, str):
                raise TypeError(f"keys must be bytes or str, not {kind.__name__}")
            if kind.__name__ != (self._kind or type(keys[0]).__name__):
                # As bytes, or in another encoding, all of them would be new: each would come again.
                raise ConfigError(
                    "dedupe",
                    f"the store has keys that are {self._kind or type(keys[0]).__name__}, and this one is"
                    f" {kind.__name__}: scan with the decode_responses that it was filled with, or clear() it",
                )
        return [key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key for key in keys]

    @property
    def _in_use(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SeenKeysUnavailable(f"the store of seen keys {self._problem}") from self._cause
        return self._connection

    @contextmanager
    def _using(self) -> Generator[sqlite3.Connection]:
        """The database. Once it has failed it is closed, and its transaction undone: some errors do that, some do not,
        and nobody is to build on what is left.
        """
        try:
            yield self._in_use
        except _sqlite().Error as error:
            self._cause = error
            self._end(f"failed: {_what_is_wrong(error)}; what was committed is still in it")
            raise SeenKeysUnavailable(f"the store of seen keys {self._problem}") from error

    @contextmanager
    def _changing(self) -> Generator[sqlite3.Connection]:
        """The same, in a transaction. Half a change (by a KeyboardInterrupt) is none, and the end of it, too."""
        with self._using() as connection:
            try:
                if not connection.in_transaction:
                    connection.execute("BEGIN")
                yield connection
            except _sqlite().Error:
                raise
            except BaseException:
                self._end("was interrupted while it was written; what was committed is still in it")
                raise

    def _end(self, problem: str) -> None:
        self._problem = problem
        self._connection = None
        # A transaction that is open is rolled back.
        with suppress(_sqlite().Error):
            self._finalizer()


def _sqlite() -> ModuleType:
    try:
        import sqlite3  # noqa: PLC0415 (some Pythons lack it, and only this needs it)
    except ImportError as error:
        raise ConfigError("dedupe", "SpillingSeen needs sqlite3, and this Python was built without it") from error
    return sqlite3


def _checked_path(path: object) -> str:
    if not isinstance(path, (str, Path)) or not str(path):
        raise ConfigError("path", "must be a file's path as str or Path, or None")
    # Absolute, no name has a meaning of its own to SQLite.
    return str(Path(path).absolute())


def _connect(path: str | None) -> sqlite3.Connection:
    database = _sqlite()
    if path is not None:
        try:
            # The database's own way to make a file lets everybody read it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            _look_at(path)
        except (OSError, ValueError) as error:
            raise ConfigError("path", f"cannot be made: {getattr(error, 'strerror', None) or error}") from error
    try:
        # timeout: who finds it in use is told so at once. "" is a temporary file.
        connection: sqlite3.Connection = database.connect(
            path or "", timeout=0, isolation_level=None, check_same_thread=False
        )
    except database.Error as error:
        raise ConfigError("path", _what_is_wrong(error)) from error
    return connection


def _look_at(path: str) -> None:
    """Raises ConfigError if what is there already is nothing that the database should open."""
    try:
        found = Path(path).stat()
    except OSError as error:
        # A link that leads nowhere, for one: the database would make a file there.
        raise ConfigError("path", f"cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError("path", "is something else than a file")
    if found.st_size in range(1, _LEAST_SIZE):
        # The database takes a file of one byte for an empty one, and writes over it.
        raise ConfigError("path", _NO_STORE)


def _prepare(connection: sqlite3.Connection, *, is_temporary: bool) -> None:
    """See that the file is a store, or make it one if it is new, and lock it for as long as it is open."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    connection.execute(f"PRAGMA synchronous = {'OFF' if is_temporary else 'FULL'}")
    connection.execute("BEGIN EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or version or tables):
        for statement in (*_TABLES, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_VERSION}"):
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (?, 0, 0, 0, NULL)", (secrets.token_bytes(_NAME_SIZE),))
    elif application != _APPLICATION:
        raise ConfigError("path", "is a database of something else, not a store of seen keys; it was left as it is")
    elif version != _VERSION:
        raise ConfigError(
            "path",
            f"is a store of seen keys of version {version}, and this package has version {_VERSION}: it was written"
            " by another release",
        )
    connection.execute("COMMIT")
    # Only now: it changes the file. A temporary one is of no use to anybody once this process is gone.
    connection.execute(f"PRAGMA journal_mode = {'OFF' if is_temporary else 'WAL'}")


def _what_is_wrong(error: Exception) -> str:
    """In words, and without the statement."""
    codes = _sqlite()
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case codes.SQLITE_BUSY:
            return "is in use: by another scan, or by another process"
        case codes.SQLITE_NOTADB:
            return _NO_STORE
        case _:
            return f"the database says: {error}"
