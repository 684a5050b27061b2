"""Locks: given back whatever happens, and not left behind by a caller that never learned that it had one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
from redis.exceptions import LockError, LockNotOwnedError

from tests.trio.fakes import HANG_UP, Hold, Network, Reply, Service, on_mock_time
from trio_sentinel_scan import Lock, SentinelClient

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


def tokens_given_back(service: Service) -> list[bytes]:
    """What redis-py's script was called with."""
    return [words[4] for words in service.master.commands("EVALSHA")]


def held(service: Service) -> bytes | None:
    value = service.master.program.data.get(0, {}).get(b"name")
    return None if value is None else value.data


async def test_it_is_given_back_at_the_end(service: Service, client: SentinelClient) -> None:
    async with client.lock("name", timeout=10) as lock:
        assert isinstance(lock, Lock)
        assert service.master.commands("SET")[0][3:] == [b"NX", b"PX", b"10000"]
        token = held(service)
    # (The script was not known at first.)
    assert tokens_given_back(service) == [token, token]
    assert held(service) is None


async def test_it_is_given_back_by_a_body_that_is_cancelled(service: Service, client: SentinelClient) -> None:
    """It would be locked for ever: on Trio, what a cancelled task awaits in its __aexit__ is cancelled, too."""
    with trio.move_on_after(1) as scope:
        async with client.lock("name"):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert tokens_given_back(service)
    assert held(service) is None


async def test_giving_it_back_does_not_hold_up_a_cancelled_task_for_long(
    service: Service, client: SentinelClient
) -> None:
    with trio.move_on_after(1) as scope:
        async with client.lock("name"):
            service.master.hang()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() <= 3


async def test_whoever_is_cancelled_while_he_takes_it_leaves_it_free(service: Service, client: SentinelClient) -> None:
    """The key may be set already when the reply is still on its way."""
    late = trio.Event()
    service.master.tap("SET", instead=Hold(late))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _reply() -> None:
            await trio.sleep(2)
            late.set()

        with trio.move_on_after(1) as scope:
            await client.lock("name").acquire()
    assert scope.cancelled_caught
    assert tokens_given_back(service)
    assert held(service) is None


async def test_a_lost_reply_does_not_lose_the_lock(service: Service, client: SentinelClient) -> None:
    """Nobody else has this token, so the server can tell whether it was set."""
    service.master.tap("SET", instead=HANG_UP)
    lock = client.lock("name")
    assert await lock.acquire()
    assert await lock.owned()
    assert len(service.master.commands("SET")) == 1


async def test_it_waits_its_time_and_no_longer(service: Service, client: SentinelClient) -> None:
    await client.set("name", "somebody else")
    assert not await client.lock("name").acquire(blocking=False)
    assert trio.current_time() == 0
    assert not await client.lock("name", blocking_timeout=5).acquire()
    assert 4.8 < trio.current_time() <= 5
    with pytest.raises(LockError):
        async with client.lock("name", blocking_timeout=1):
            pytest.fail("somebody else has it")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _wait() -> None:
            assert await client.lock("name", sleep=1).acquire(token="mine")

        await trio.sleep(10)
        await client.delete("name")
    assert held(service) == b"mine"


async def test_one_that_was_lost_meanwhile(service: Service, client: SentinelClient) -> None:
    with pytest.raises(LockNotOwnedError):
        async with client.lock("name"):
            service.master.tap("EVALSHA", times=2, instead=Reply(0))
    async with client.lock("other", raise_on_release_error=False):
        service.master.tap("EVALSHA", times=2, instead=Reply(0))


async def test_whoever_is_cancelled_while_he_looks_whether_he_has_it_leaves_it_free(
    service: Service, client: SentinelClient
) -> None:
    late = trio.Event()
    service.master.tap("SET", instead=HANG_UP)
    service.master.tap("GET", instead=Hold(late))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _reply() -> None:
            await trio.sleep(2)
            late.set()

        with trio.move_on_after(1) as scope:
            await client.lock("name").acquire()
    assert scope.cancelled_caught
    assert tokens_given_back(service)
    assert held(service) is None


async def test_a_lock_that_was_set_after_it_was_looked_for_is_found(service: Service, client: SentinelClient) -> None:
    """What was lost on one connection may be run after the question for it, which came over another."""
    service.master.tap("SET", instead=HANG_UP)
    service.master.tap("GET", instead=Reply(None))
    with trio.fail_after(10):
        assert await client.lock("name").acquire(token="mine")
    assert held(service) == b"mine"
