"""What comes out of the package while something goes wrong, all of it, and whether anything private is in it.

Each scenario has one password, one key, one value, found nowhere else. What is gathered: log records of every level,
warnings, spans and metrics, the `repr` of every living object whose class is ours, and of each error its text, its
notes, its chain, and our objects among the locals of its traceback. A raw `bytes` in such a local is no object of ours:
nobody can keep a reporter that shows locals from showing those, and SECURITY.md says so.
"""

from __future__ import annotations

import base64
import gc
import logging
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from trio_sentinel_scan import AuthenticationFailed, ScanRefused, SentinelScanError

if TYPE_CHECKING:
    from types import TracebackType

    from tests.trio.test_telemetry import Told

__all__ = ["CHANNEL", "KEY", "PASSWORD", "SENTINEL_PASSWORD", "VALUE", "Harvest", "harvesting"]

PACKAGE: Final = "trio_sentinel_scan"

# Each is one word that nothing else has in it, and none is part of another.
PASSWORD: Final = "Qzpasswordzq"
SENTINEL_PASSWORD: Final = "Qzsentinelzq"
KEY: Final = b"Qzkeyzq"
VALUE: Final = b"Qzvaluezq"
CHANNEL: Final = b"Qzchannelzq"

_SECRETS: Final = (PASSWORD.encode(), SENTINEL_PASSWORD.encode(), KEY, VALUE, CHANNEL)
# What is documented to have names in it, for who asks for it: no message, no repr.
_FOR_THE_CALLER: Final = frozenset({"channels", "patterns", "shard_channels"})

# Of our errors, those that say with which words a server refused what was asked.
_QUOTING: Final = (ScanRefused, AuthenticationFailed)


def _forms(secret: bytes) -> Iterator[str]:
    """A secret as it may stand in a text."""
    yield secret.decode()
    yield secret.hex()
    yield str(list(secret)).strip("[]")
    # Within something longer, its bits begin at one of three places of a base64 digit's.
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + secret).decode()
        yield whole[4 if shift else 0 : len(whole) // 4 * 4 - 4]


FORMS: Final = {form: secret.decode() for secret in _SECRETS for form in _forms(secret)}


class Harvest(logging.Handler):
    """Everything that has come out so far."""

    def __init__(self, *, objects: bool) -> None:
        super().__init__(logging.NOTSET)
        # (where it was found, the text)
        self.found: list[tuple[str, str]] = []
        # How many errors and how many objects were looked at: a harvest of nothing shows nothing.
        self.errors = 0
        self.objects = 0
        self._looks_at_objects = objects

    def add(self, where: str, text: object) -> None:
        """This came out."""
        self.found.append((where, str(text)))

    def emit(self, record: logging.LogRecord) -> None:
        """A log record, with what it was made of."""
        self.add(f"log {record.name}", record.getMessage())
        for argument in record.args if isinstance(record.args, tuple) else ():
            self.add(f"log {record.name}, an argument's repr", repr(argument))
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.error(record.exc_info[1])

    # ---- errors --------------------------------------------------------------------------------------------------

    def error(self, error: BaseException, *, servers_words: bool = False) -> None:
        """An error that reached the caller, and all that hangs on it.

        `servers_words`: what a server answers is redis-py's error, with the server's own words in it, for the one who
        asked; so is a scan's refusal. No other error may repeat them, and neither may a log.
        """
        for one in _chain(error):
            self.errors += 1
            where = type(one).__name__
            may_quote = not isinstance(one, SentinelScanError) or isinstance(one, _QUOTING)
            if not (servers_words and isinstance(one, RedisError) and may_quote):
                self.add(f"{where}'s text", one)
                if not isinstance(one, UnicodeDecodeError):
                    self.add(f"{where}'s repr", repr(one))
            for note in getattr(one, "__notes__", ()):
                self.add(f"{where}'s notes", note)
            if isinstance(one, SentinelScanError):
                for name, value in vars(one).items():
                    if name not in _FOR_THE_CALLER and not name.startswith("__"):
                        self.add(f"{where}.{name}", repr(value))
            self._locals(where, one.__traceback__)

    def _locals(self, where: str, traceback: TracebackType | None) -> None:
        while traceback is not None:
            code = traceback.tb_frame.f_code
            if f"/{PACKAGE}/" in code.co_filename:
                for name, value in traceback.tb_frame.f_locals.items():
                    if _is_ours(value):
                        self.add(f"{where}, local {name} of {code.co_qualname}", _shown(value))
            traceback = traceback.tb_next

    # ---- objects -------------------------------------------------------------------------------------------------

    def living(self) -> None:
        """The `repr` of every object of ours that lives now (and was made since `harvesting` began)."""
        for thing in gc.get_objects() if self._looks_at_objects else ():
            if _is_ours(thing):
                self.objects += 1
                self.add(f"a living {type(thing).__qualname__}", _shown(thing))

    # ---- the result ----------------------------------------------------------------------------------------------

    def leaks(self) -> set[str]:
        """Where something private was found, and what."""
        return {
            f"{where}: {secret} in {_around(text, form)!r}"
            for where, text in self.found
            for form, secret in FORMS.items()
            if form in text
        }

    def check(self) -> None:
        """Nothing private has come out."""
        assert self.errors + self.objects, "nothing was looked at"
        leaks = sorted(self.leaks())
        assert not leaks, "\n".join(leaks[:40])


def _around(text: str, form: str) -> str:
    at = text.index(form)
    return text[max(0, at - 100) : at + len(form) + 40]


def _is_ours(thing: object) -> bool:
    kind = type(thing)
    return kind.__module__.partition(".")[0] == PACKAGE and not isinstance(thing, type)


def _shown(thing: object) -> str:
    try:
        return repr(thing)
    except (AttributeError, ReferenceError):
        # It is only just being made.
        return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from and while, also where that is not shown, and the members of groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


@contextmanager
def harvesting(told: Told | None = None, *, objects: bool = True) -> Generator[Harvest]:
    """Gather everything that comes out in this block; at its end, what OpenTelemetry was told, too.

    `objects`: whether the living objects are looked at, which takes most of the time.
    """
    harvest = Harvest(objects=objects)
    root = logging.getLogger()
    before = root.level
    root.addHandler(harvest)
    root.setLevel(logging.DEBUG)
    # What lives already is not gone through each time.
    gc.collect()
    gc.freeze()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield harvest
        for warning in caught:
            harvest.add("a warning", warning.message)
        if told is not None:
            harvest.add("OpenTelemetry", told.everything())
    finally:
        gc.unfreeze()
        root.setLevel(before)
        root.removeHandler(harvest)
