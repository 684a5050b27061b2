"""Everything that a caller can give a key, a value or a channel to, and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import pytest
import trio

from tests.security.harvest import CHANNEL, KEY, VALUE, Harvest
from tests.trio.fakes import HANG_UP, SILENCE, Cut, Error, Raw, Reply

__all__ = ["FAILURES", "HASH", "OPERATIONS", "SERVERS_WORDS", "Operation", "attempt", "raising"]

# Of a hash, whose fields and values are as private.
HASH: Final = KEY + b":hash"

# A client of any kind, of either edition.
Client = Any
Work = Callable[[Client, Harvest], Awaitable[object]]


class Operation(NamedTuple):
    """Something that a caller does, and the command whose reply can go wrong in it."""

    command: str
    work: Work
    # Whether it is about one key, so that a cluster answers it with redirections.
    has_key: bool = True


async def _pipeline(client: Client, harvest: Harvest) -> object:
    pipe = client.pipeline().set(KEY, VALUE).get(KEY)
    harvest.living()
    return await pipe.execute()


async def _plain_pipeline(client: Client, harvest: Harvest) -> object:
    return await client.pipeline(transaction=False).set(KEY, VALUE).get(KEY).execute()


async def _watch(client: Client, harvest: Harvest) -> object:
    async with client.pipeline() as pipe:
        await pipe.watch(KEY)
        await pipe.get(KEY)
        pipe.multi()
        return await pipe.set(KEY, VALUE).execute()


async def _script(client: Client, harvest: Harvest) -> object:
    return await client.register_script("return 'Qzvaluezq'")(keys=[KEY], args=[VALUE])


async def _lease(client: Client, harvest: Harvest) -> object:
    async with client.dedicated() if not hasattr(client, "map") else client.dedicated(key=KEY) as lease:
        harvest.living()
        return await lease.set(KEY, VALUE)


async def _lock(client: Client, harvest: Harvest) -> object:
    async with client.lock(KEY + b":lock", timeout=5, blocking_timeout=1) as lock:
        harvest.add("a lock", repr(lock))
        harvest.living()
        return True


async def _scan(client: Client, harvest: Harvest) -> object:
    async with client.open_scan(match=KEY + b"*", count=5, max_restarts=1, dedupe=True, with_=("type", "ttl")) as pages:
        async for page in pages:
            harvest.add("a checkpoint", page.checkpoint)
            harvest.living()
        harvest.living()
        harvest.add("a summary", repr(pages.summary))
        return pages.summary


async def _scan_collection(client: Client, harvest: Harvest) -> object:
    async with client.open_hscan(HASH, match=KEY + b"*", count=5, max_restarts=1) as pages:
        async for page in pages:
            harvest.add("a checkpoint", page.checkpoint)
            harvest.living()
        return pages.summary


async def _scan_iter(client: Client, harvest: Harvest) -> object:
    return [key async for key in client.hscan_iter(HASH, match=KEY + b"*")]


async def _subscribe(client: Client, harvest: Harvest) -> object:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe(CHANNEL)
        await subscriber.psubscribe(**{f"{CHANNEL.decode()}*": print})
        harvest.living()
        harvest.add("a subscriber", repr(subscriber))
        await subscriber.unsubscribe(CHANNEL)
        return await subscriber.get_message(timeout=0.1)


OPERATIONS: Final[dict[str, Operation]] = {
    "get": Operation("GET", lambda client, harvest: client.get(KEY)),
    "set": Operation("SET", lambda client, harvest: client.set(KEY, VALUE)),
    "mget": Operation("MGET", lambda client, harvest: client.mget(KEY, KEY)),
    "blpop": Operation("BLPOP", lambda client, harvest: client.blpop([KEY], timeout=1)),
    "own words": Operation("GET", lambda client, harvest: client.execute_command("GET", KEY)),
    "pipeline": Operation("SET", _pipeline),
    "plain pipeline": Operation("SET", _plain_pipeline),
    "watch": Operation("WATCH", _watch),
    "script": Operation("EVALSHA", _script),
    "lease": Operation("SET", _lease),
    "lock": Operation("SET", _lock),
    "scan": Operation("SCAN", _scan, has_key=False),
    "hscan": Operation("HSCAN", _scan_collection),
    "hscan_iter": Operation("HSCAN", _scan_iter),
    "subscribe": Operation("SUBSCRIBE", _subscribe, has_key=False),
}

_WORDS: Final = f"{KEY.decode()} {VALUE.decode()} {CHANNEL.decode()}"
# What comes in place of the reply. In those of `SERVERS_WORDS` is the key: servers do repeat what they are given.
FAILURES: Final[dict[str, Any]] = {
    "nothing": None,
    "wrong type": Reply(Error("WRONGTYPE Operation against a key holding the wrong kind of value")),
    "not permitted": Reply(Error("NOPERM this user has no permissions to access one of the keys used as arguments")),
    "read only": Reply(Error("READONLY You can't write against a read only replica.")),
    "loading": Reply(Error("LOADING Redis is loading the dataset in memory")),
    "logged out": Reply(Error("NOAUTH Authentication required.")),
    "unknown command": Reply(
        Error(f"ERR unknown command 'XX', with args beginning with: '{KEY.decode()}' '{VALUE.decode()}' ")
    ),
    "a number": Reply(7),
    "a map": Reply({KEY: VALUE}),
    "keys": Reply([KEY, VALUE, CHANNEL]),
    "not text": Reply(KEY + b"\xff"),
    "hang up": HANG_UP,
    "silence": SILENCE,
    "cut": Cut(1),
    "no resp": Raw(KEY + b"\r\n"),
    "a length in letters": Raw(b"$" + KEY + b"\r\n"),
    "two replies": Raw(b"+%b\r\n+%b\r\n" % (KEY, VALUE)),
    "too long": Raw(b"*999999999\r\n$7\r\n%b\r\n" % KEY),
    "unasked": Raw(b">3\r\n+message\r\n+%b\r\n+%b\r\n+%b\r\n" % (CHANNEL, VALUE, VALUE)),
}
SERVERS_WORDS: Final[dict[str, Any]] = {
    "out of memory": Reply(Error(f"OOM command not allowed when used memory > 'maxmemory', {_WORDS}")),
    "a script's words": Reply(Error(f"{KEY.decode()} is {VALUE.decode()}")),
    "an error with the key": Reply(Error(f"ERR No such key '{_WORDS}'")),
    "no group": Reply(Error(f"NOGROUP No such key '{_WORDS}'")),
    "a code of a key": Reply(Error(f"{KEY.decode().upper()} {VALUE.decode()}")),
    "moved nowhere": Reply(Error(f"MOVED {_WORDS}")),
    "not permitted, by name": Reply(Error(f"NOPERM No permissions to access '{_WORDS}'")),
    "busy": Reply(Error(f"BUSY {_WORDS}")),
    "loading, by name": Reply(Error(f"LOADING {_WORDS}")),
    "read only, by name": Reply(Error(f"READONLY {_WORDS}")),
    "logged out, by name": Reply(Error(f"NOAUTH {_WORDS}")),
}


async def attempt(work: Callable[[], Awaitable[object]], harvest: Harvest, *, servers_words: bool = False) -> None:
    """Do it, whatever comes of it, within its time; its error, and what lives then, are gathered."""
    with trio.fail_after(200):
        try:
            await work()
        except Exception as error:  # noqa: BLE001 (whatever it is)
            harvest.error(error, servers_words=servers_words)
            # (While it keeps what it hangs on alive.)
            harvest.living()
        else:
            harvest.living()


async def raising(kind: type[BaseException], harvest: Harvest, work: Callable[[], Any]) -> BaseException:
    """What it raises, gathered."""
    with pytest.raises(kind) as caught:
        await work()
    harvest.error(caught.value)
    harvest.living()
    return caught.value
