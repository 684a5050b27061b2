"""What a server says of each key beside its name: asked on the scan's own connection, before the key's page goes out.

A page waits here from when its keys and cursors were committed until every reply about its keys has come. It belongs
to its pass: when the connection is lost, its keys are asked about again on the next one to the same process, and when
the pass is void, it goes with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from redis import exceptions as redis_errors

from .errors import ConfigError
from .replies import as_text
from .verdicts import Verdict, error_code, verdict_of
from .wire import encode_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .scan_replies import ScanReply
    from .summary import ScanPage

__all__ = ["MOST_KEYS", "KeyDetails", "Questions", "WaitingRoom", "Wanted", "checked_details"]

# The most keys in a page with details, so that none has to wait for the replies about too many others, and the most
# that are asked about at once: the server runs what one read of its own brings it (16 KB), and then turns to others.
MOST_KEYS: Final = 1000
# When so many keys wait for details, no more are asked for.
MOST_WAITING: Final = 10_000

# None of these makes a key look as if it had been used.
_COMMANDS: Final[dict[str, tuple[bytes, ...]]] = {
    "type": (b"TYPE",),
    "ttl": (b"TTL",),
    "memory": (b"MEMORY", b"USAGE"),
    "idle": (b"OBJECT", b"IDLETIME"),
    "freq": (b"OBJECT", b"FREQ"),
}
# From a key as text there has to be a way back to its bytes.
_REVERSIBLE: Final = frozenset({"strict", "surrogateescape", "surrogatepass"})
# Verdicts on which there is nothing to wait for and nowhere to go: the server does not say.
_NOT_SAID: Final = frozenset({Verdict.REFUSED, Verdict.RESTART})


class KeyDetails(NamedTuple):
    """What the server says of a key beside its name.

    None is what was not asked for (`with_`), and what the server did not say: `freq` without an LFU policy, `idle`
    with one, a command that the user may not run, and `memory`, `idle`, `freq` of a key that has gone meanwhile.
    """

    # As TYPE has it: "string", "list", "hash", ...; "none" for a key that has gone since SCAN brought it.
    type: str | None = None
    # As TTL has it: seconds left; -1 for a key that does not expire, -2 for one that has gone.
    ttl: int | None = None
    # Bytes, as MEMORY USAGE has them: of big collections an estimate.
    memory: int | None = None
    # Seconds since it was last used, as OBJECT IDLETIME has them.
    idle: int | None = None
    # How often it is used: the counter of OBJECT FREQ, which is logarithmic and decays.
    freq: int | None = None


class Wanted(NamedTuple):
    """What is wanted of each key, and how keys that are text are written."""

    # In the order of KeyDetails; at least one.
    names: tuple[str, ...]
    encoding: str
    encoding_errors: str


class Questions(NamedTuple):
    """Commands to be sent together: their bytes, and how many replies they will have."""

    data: bytes
    replies: int

    def __repr__(self) -> str:
        return f"<Questions in {self.replies} commands>"


def checked_details(value: object, *, encoding: str, encoding_errors: str, decodes: bool) -> Wanted | None:
    """The names in `with_`, in their order in KeyDetails; None for none. Raises ConfigError."""
    known = ", ".join(_COMMANDS)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigError("with_", f"must be several of the names {known}, such as a list of them")
    names = list(cast("Iterable[object]", value))
    if not names:
        return None
    for name in names:
        if not isinstance(name, str) or name not in _COMMANDS:
            raise ConfigError("with_", f"there are {known}, and nothing else")
        if names.count(name) > 1:
            raise ConfigError("with_", f"has {name} more than once")
    if decodes and encoding_errors not in _REVERSIBLE:
        raise ConfigError(
            "with_",
            f"asks about each key by its name, and encoding_errors={encoding_errors!r} leaves no way back from a"
            ' decoded key to its bytes: use decode_responses=False, or encoding_errors="surrogateescape"',
        )
    return Wanted(tuple(name for name in _COMMANDS if name in names), encoding, encoding_errors)


class _Waiting:
    """A page that waits for its details."""

    __slots__ = ("asked", "is_told", "page", "replies")

    def __init__(self, page: ScanPage[Any]) -> None:
        self.page = page
        # What was asked of each of its keys; None while nothing was, or in vain.
        self.asked: tuple[str, ...] | None = None
        # What has come of the replies to that.
        self.replies: list[Any] = []
        # Invariant: only then has `page` its details.
        self.is_told = False

    def ask_again(self) -> None:
        """What was asked was asked in vain."""
        self.asked = None
        self.replies = []


class WaitingRoom:
    """The pages of a pass that wait for their details, in the order in which they will leave."""

    def __init__(self, wanted: Wanted) -> None:
        self._encoding, self._encoding_errors = wanted.encoding, wanted.encoding_errors
        # What is asked of each key. A name goes when the server says that it does not know the like at all.
        self._names: tuple[str, ...] = wanted.names
        self._pages: deque[_Waiting] = deque()
        # Those that are to be asked about, in the same order; and those that were, in the order of their replies.
        self._to_ask: deque[_Waiting] = deque()
        self._asked: deque[_Waiting] = deque()
        # How many of the first in `_to_ask` the latest `questions` are about.
        self._going = 0
        self._keys = 0

    @property
    def is_empty(self) -> bool:
        """Whether no page waits."""
        return not self._pages

    @property
    def is_full(self) -> bool:
        """Whether so many keys wait that no more should be fetched."""
        return self._keys >= MOST_WAITING

    def add(self, pages: Iterable[ScanPage[Any]]) -> None:
        """These pages were committed."""
        for page in pages:
            waiting = _Waiting(page)
            self._pages.append(waiting)
            self._to_ask.append(waiting)
            self._keys += len(page)

    def take_ready(self) -> list[ScanPage[Any]]:
        """Pages that have their details, and all before them have, too."""
        ready: list[ScanPage[Any]] = []
        while self._pages:
            first = self._pages[0]
            if not first.is_told:
                if self._names or first.asked is not None:
                    break
                # Nothing is left to be asked.
                self._to_ask.popleft()
                first.page = replace(first.page, details=dict.fromkeys(first.page.keys, KeyDetails()))
            self._pages.popleft()
            self._keys -= len(first.page)
            ready.append(first.page)
        return ready

    # ---- what to ask --------------------------------------------------------------------------------------------

    def questions(self) -> Questions | None:
        """What to ask next; nothing has changed until it was `sent`."""
        keys: list[Any] = []
        self._going = 0
        if not self._names:
            return None
        for waiting in self._to_ask:
            if self._going and len(keys) + len(waiting.page) > MOST_KEYS:
                break
            self._going += 1
            keys += waiting.page.keys
        return Questions(self._encode(keys), len(keys) * len(self._names)) if keys else None

    def _encode(self, keys: list[Any]) -> bytes:
        # A command up to its key, for each name; with the key in between and behind, that is all of them for one key.
        heads = [encode_command(*_COMMANDS[name], b"")[: -len(b"$0\r\n\r\n")] for name in self._names]
        heads.append(b"")
        parts: list[bytes] = []
        for key in keys:
            data = key if isinstance(key, bytes) else key.encode(self._encoding, self._encoding_errors)
            parts.append((b"$%d\r\n%b\r\n" % (len(data), data)).join(heads))
        return b"".join(parts)

    def sent(self) -> None:
        """The latest `questions` are on their way."""
        for _ in range(self._going):
            waiting = self._to_ask.popleft()
            waiting.asked = self._names
            self._asked.append(waiting)
        self._going = 0

    def connection_lost(self) -> None:
        """No reply that is still on its way will come."""
        for waiting in self._asked:
            waiting.ask_again()
        self._asked.clear()
        self._line_up()

    def _line_up(self) -> None:
        self._going = 0
        self._to_ask = deque(waiting for waiting in self._pages if waiting.asked is None)

    # ---- what came ----------------------------------------------------------------------------------------------

    def received(self, replies: Sequence[ScanReply]) -> tuple[int, redis_errors.RedisError | None]:
        """Replies have come, in the order of what was asked.

        Returns how many pages have all of theirs now, and an error reply that says more than that something is not
        said: one that ends the connection, or else a request for patience. That page is to be asked about again.
        """
        told, trouble = 0, None
        place = 0
        while place < len(replies):
            waiting = self._asked[0]
            assert waiting.asked is not None
            missing = len(waiting.page) * len(waiting.asked) - len(waiting.replies)
            some = replies[place : place + missing]
            waiting.replies += some
            place += len(some)
            if len(some) < missing:
                break
            self._asked.popleft()
            error = self._tell(waiting, waiting.asked)
            if error is None:
                told += 1
                continue
            waiting.ask_again()
            self._line_up()
            if verdict_of(error) is not Verdict.WAIT:
                return told, error
            trouble = error
        return told, trouble

    def _tell(self, waiting: _Waiting, names: tuple[str, ...]) -> redis_errors.RedisError | None:
        """Give a page its details, or return the error reply that there is against it."""
        columns: dict[str, list[Any]] = {}
        unknown: set[str] = set()
        for place, name in enumerate(names):
            column = columns[name] = waiting.replies[place :: len(names)]
            kinds: Any = (bytes, str) if name == "type" else (int, NoneType)
            for row, reply in enumerate(column):
                if isinstance(reply, kinds):
                    continue
                if not isinstance(reply, redis_errors.RedisError):
                    return redis_errors.InvalidResponse("replies out of order")
                if verdict_of(reply) not in _NOT_SAID:
                    return reply
                column[row] = None
                if error_code(reply) == "ERR":
                    # It is not about this key: another policy, or another product.
                    unknown.add(name)
        if "type" in columns:
            columns["type"] = [None if reply is None else as_text(reply) for reply in columns["type"]]
        rows = zip(*[columns.get(name, repeat(None)) for name in _COMMANDS], strict=False)
        keys = waiting.page.keys
        waiting.page = replace(waiting.page, details=dict(zip(keys, map(KeyDetails._make, rows), strict=True)))
        waiting.is_told = True
        waiting.replies = []
        self._names = tuple(name for name in self._names if name not in unknown)
        return None
