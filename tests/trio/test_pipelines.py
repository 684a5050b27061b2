"""Pipelines and transactions: in one go, answered in order, run once or known to be in doubt."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio
from redis.exceptions import ReadOnlyError, RedisError, ResponseError, WatchError

from tests.trio.fakes import HANG_UP, SILENCE, Cut, Error, Hold, Network, Reply, Service, User, on_mock_time, settled
from trio_sentinel_scan import (
    ClientClosed,
    CommandNotShareable,
    CommandOutcomeUnknown,
    Pipeline,
    RedisClient,
    SentinelClient,
)
from trio_sentinel_scan._trio import shared

pytestmark = pytest.mark.trio(run=on_mock_time)

READONLY = Reply(Error("READONLY You can't write against a read only replica."))


@pytest.fixture
def service(network: Network) -> Service:
    return Service(network, keys=10)


@pytest.fixture
async def client(service: Service) -> AsyncGenerator[SentinelClient]:
    async with SentinelClient(service.addresses, "mymaster") as client:
        yield client


def data(service: Service, key: bytes) -> bytes | None:
    value = service.master.program.data[0].get(key)
    return None if value is None else value.data


def names(service: Service) -> list[str]:
    """What the master was asked, without what connections say of themselves."""
    said = [words[0].decode() for _, words in service.master.log]
    return [name for name in said if name not in {"HELLO", "ROLE", "INFO", "CLIENT"}]


# ---- buffered and sent ------------------------------------------------------------------------------------------


async def test_a_transaction(service: Service, client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        assert pipe.set("n", 1).incr("n") is pipe
        pipe.get("n")
        assert len(pipe) == 3
        assert pipe
        assert repr(pipe) == "<Pipeline of 3 commands>"
        assert names(service) == []
        assert await pipe.execute() == [True, 2, b"2"]
        # It is as new afterwards.
        assert len(pipe) == 0
        assert await pipe.execute() == []
        assert await pipe.get("n").execute() == [b"2"]
    assert names(service) == ["MULTI", "SET", "INCRBY", "GET", "EXEC", "MULTI", "GET", "EXEC"]


async def test_a_pipeline_without_a_transaction(service: Service, client: SentinelClient) -> None:
    pipe = client.pipeline(transaction=False)
    assert await pipe.set("n", 1).incr("n").mget([]).execute() == [True, 2, []]
    assert names(service) == ["SET", "INCRBY", "MGET"]


async def test_replies_keep_their_order_however_they_come(service: Service, client: SentinelClient) -> None:
    service.master.slice = 1
    async with client.pipeline() as pipe:
        for number in range(10):
            pipe.get(f"key:{number}")
        assert await pipe.execute() == [b"value of key:%d" % number for number in range(10)]


async def test_an_error_names_the_command_and_not_its_arguments(service: Service, client: SentinelClient) -> None:
    service.master.program.users["default"] = User(forbidden=frozenset({"GET"}))
    for transaction in (False, True):
        async with client.pipeline(transaction=transaction) as pipe:
            with pytest.raises(RedisError, match=r"^Command # 2 \(GET\) of pipeline caused error:") as caught:
                await pipe.set("secret", "secret").get("secret").execute()
            assert "secret" not in str(caught.value)
            assert len(pipe) == 0
    # The second one was a transaction, so it did not happen; without raise_on_error both are told.
    pipe = client.pipeline(transaction=False).set("k", 1).get("k").set("k", 2)
    done, refused, too = await pipe.execute(raise_on_error=False)
    assert (done, too) == (True, True)
    assert isinstance(refused, RedisError)


async def test_a_refused_command_is_refused_when_it_is_buffered(  # noqa: ASYNC124 (as its neighbours)
    client: SentinelClient,
) -> None:
    with pytest.raises(CommandNotShareable):
        client.pipeline().execute_command("SUBSCRIBE", "channel")


async def test_what_changes_its_connection_has_one_of_its_own(service: Service, client: SentinelClient) -> None:
    """In redis-py, the next one to have that connection would find itself in another database."""
    async with client.pipeline(transaction=False) as pipe:
        assert await pipe.select(3).set("k", "v").get("k").execute() == [True, True, b"v"]
    assert await client.get("k") is None
    async with client.pipeline(transaction=False) as pipe:
        assert await pipe.get("k").execute() == [None]


async def test_scripts_are_given_to_the_server_in_the_same_go(service: Service, client: SentinelClient) -> None:
    """Between a question whether it knows them and the pipeline itself there may be another master."""
    script = client.register_script("return 1")
    async with client.pipeline() as pipe:
        assert await script(args=[1], client=pipe) is pipe
        assert await pipe.get("key:1").execute() == [b"of a script", b"value of key:1"]
    assert names(service) == ["SCRIPT", "MULTI", "EVALSHA", "GET", "EXEC"]


async def test_a_script_is_given_to_a_server_that_does_not_know_it(service: Service, client: SentinelClient) -> None:
    script = client.register_script(b"return 1")
    for _ in range(2):
        assert await script(keys=["k"], args=[1]) == b"of a script"
    assert names(service) == ["EVALSHA", "SCRIPT", "EVALSHA", "EVALSHA"]
    service.fail_over()
    await settled()
    assert await script() == b"of a script"


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_reply_that_cannot_be_decoded(network: Network, transaction: bool) -> None:
    """The next pipeline gets its own replies."""
    service = Service(network, keys=1)
    async with RedisClient(service.master.address, decode_responses=True) as client:
        await client.set("k", b"\xff")
        async with client.pipeline(transaction=transaction) as pipe:
            with pytest.raises(UnicodeDecodeError):
                await pipe.get("k").get("key:0").execute()
            assert await pipe.get("key:0").execute() == ["value of key:0"]


async def test_a_client_that_is_not_open(network: Network) -> None:
    service = Service(network)
    with pytest.raises(ClientClosed):
        await RedisClient(service.master.address).pipeline().get("k").execute()


# ---- a connection that fails, and another master ----------------------------------------------------------------


@pytest.mark.parametrize("instead", [HANG_UP, SILENCE, Cut(2)], ids=["hang up", "silence", "cut"])
@pytest.mark.parametrize("at", ["MULTI", "SET", "EXEC"])
async def test_a_transaction_whose_reply_was_lost_is_in_doubt(
    service: Service, client: SentinelClient, at: str, instead: Any
) -> None:
    """All of it was written, so all of it may have run. It is not sent again."""
    service.master.tap(at, instead=instead)
    async with client.pipeline() as pipe:
        says = r"^a transaction of 2 commands \(SET, INCRBY\) was sent to 10\.0"
        with pytest.raises(CommandOutcomeUnknown, match=says) as caught:
            await pipe.set("secret", 1).incr("n").execute()
    assert "secret" not in str(caught.value)
    assert len(service.master.commands("MULTI")) == 1
    assert len(service.master.open_wires) <= 1
    assert await client.get("key:1") == b"value of key:1"


async def test_a_pipeline_that_only_reads_is_sent_again(service: Service, client: SentinelClient) -> None:
    service.master.tap("GET", skip=1, instead=HANG_UP)
    async with client.pipeline(transaction=False) as pipe:
        assert await pipe.get("key:1").get("key:2").execute() == [b"value of key:1", b"value of key:2"]


async def test_a_pipeline_that_writes_is_not(service: Service, client: SentinelClient) -> None:
    service.master.tap("GET", instead=HANG_UP)
    async with client.pipeline(transaction=False) as pipe:
        with pytest.raises(CommandOutcomeUnknown, match=r"^a pipeline of 2 commands"):
            await pipe.incr("n").get("key:1").execute()
    assert data(service, b"n") == b"1"


async def test_a_transaction_that_a_demoted_master_threw_away_runs_at_the_new_one(
    service: Service, client: SentinelClient
) -> None:
    """EXECABORT says that nothing of it ran, and READONLY why."""
    old = service.master
    await client.pipeline().get("n").execute()  # which makes the connection
    old.program.master = service.servers[1].address
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _transaction() -> None:
            async with client.pipeline() as pipe:
                assert await pipe.set("n", 1).incr("n").execute() == [True, 2]

        await trio.sleep(3)
        service.fail_over(kill=False)
    assert data(service, b"n") == b"2"
    assert len(service.master.commands("EXEC")) == 1
    assert len(old.commands("EXEC")) == 2


async def test_what_exec_itself_answers_is_never_sent_again(service: Service, client: SentinelClient) -> None:
    """Part of it may have run."""
    service.master.tap("EXEC", instead=READONLY)
    async with client.pipeline() as pipe:
        with pytest.raises(ReadOnlyError):
            await pipe.set("n", 1).execute()
    assert len(service.master.commands("EXEC")) == 1


async def test_of_a_pipeline_that_ran_in_part_nothing_is_sent_again(service: Service, client: SentinelClient) -> None:
    service.master.tap("INCRBY", skip=1, instead=READONLY)
    async with client.pipeline(transaction=False) as pipe:
        first, second = await pipe.incr("n").incr("m").execute(raise_on_error=False)
    assert first == 1
    assert isinstance(second, ReadOnlyError)
    assert len(service.master.commands("INCRBY")) == 2


async def test_of_a_pipeline_of_which_nothing_ran_all_is_sent_again(service: Service, client: SentinelClient) -> None:
    service.master.tap("INCRBY", times=2, instead=READONLY)
    async with client.pipeline(transaction=False) as pipe:
        assert await pipe.incr("n").incr("m").execute() == [2, 2]  # (the fake ran it all the same, unlike a server)
    assert len(service.master.commands("INCRBY")) == 4


async def test_a_cancelled_pipeline_is_empty(service: Service, client: SentinelClient) -> None:
    """State that remains: a pipeline as new, and its replies are nobody else's."""
    late = trio.Event()
    service.master.tap("EXEC", instead=Hold(late))
    async with client.pipeline() as pipe:
        with trio.move_on_after(1) as scope:
            await pipe.set("n", 1).execute()
        assert scope.cancelled_caught
        assert len(pipe) == 0
        late.set()
        assert await pipe.get("key:1").execute() == [b"value of key:1"]


# ---- WATCH ------------------------------------------------------------------------------------------------------


async def add_one(pipe: Pipeline) -> int:
    """What `transaction` is for."""
    now = int(await pipe.get("n") or 0)
    pipe.multi()
    pipe.set("n", now + 1)
    return now


async def test_a_watched_transaction(service: Service, client: SentinelClient) -> None:
    """On one connection from the first watch to the end, which is given back clean."""
    async with client.pipeline() as pipe:
        assert await pipe.watch("n") is True
        assert await add_one(pipe) == 0
        assert len(client._pool._out) == 1
        assert await pipe.execute() == [True]
        assert not pipe.watching
        assert len(client._pool._out) == 0
    assert names(service) == ["WATCH", "GET", "MULTI", "SET", "EXEC"]
    assert len(client._pool._idle) == 1


async def test_a_change_in_between_is_noticed(service: Service, client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        await add_one(pipe)
        await client.set("n", 10)
        with pytest.raises(WatchError):
            await pipe.execute()
        # It can begin again.
        await pipe.watch("n")
        await add_one(pipe)
        assert await pipe.execute() == [True]
    assert data(service, b"n") == b"11"


async def test_transaction_begins_again_until_nobody_is_in_between(service: Service, client: SentinelClient) -> None:
    async def work() -> None:
        for _ in range(5):
            assert await client.transaction(add_one, "n") == [True]

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    assert data(service, b"n") == b"20"
    assert await client.transaction(add_one, "n", value_from_callable=True) == 20
    assert await client.transaction(lambda pipe: pipe.get("n")) == [b"21"]


async def test_without_the_watch_somebody_is_in_between(service: Service, client: SentinelClient) -> None:
    """The same as above, and increments are lost: that is what the watching is for."""

    async def work() -> None:
        for _ in range(5):
            async with client.pipeline() as pipe:
                now = int(await client.get("n") or 0)
                await pipe.set("n", now + 1).execute()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    assert int(data(service, b"n") or 0) < 20


async def test_a_watch_that_was_lost_fails_as_one(service: Service, client: SentinelClient) -> None:
    """Nobody watched for a while, so nothing that was read holds any more."""
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        await add_one(pipe)
        service.master.drop_clients()
        with pytest.raises((WatchError, CommandOutcomeUnknown)):
            await pipe.execute()
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        await add_one(pipe)
        service.fail_over(kill=False)
        await settled()
        with pytest.raises(WatchError, match="MASTER_CHANGE"):
            await pipe.execute()
    assert data(service, b"n") is None
    assert await client.transaction(add_one, "n") == [True]


async def test_a_watch_on_a_demoted_master_is_lost(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def demoted_in_between() -> None:
        async with client.pipeline() as pipe:
            await pipe.watch("n")
            await add_one(pipe)
            service.master.program.master = service.servers[1].address
            try:
                await pipe.execute()
            finally:
                service.master.program.master = None

    with pytest.raises(WatchError, match="not the master"):
        await demoted_in_between()


@pytest.mark.parametrize("at", ["WATCH", "GET"])
async def test_a_connection_lost_while_it_watches(service: Service, client: SentinelClient, at: str) -> None:
    service.master.tap(at, instead=HANG_UP)
    async with client.pipeline() as pipe:
        with pytest.raises(WatchError):
            await pipe.watch("n")
            await add_one(pipe)
        assert not pipe.watching
        assert client._pool._out == set()
    assert await client.transaction(add_one, "n") == [True]


async def test_a_write_lost_while_it_watches_is_in_doubt(service: Service, client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        service.master.tap("INCRBY", instead=HANG_UP)
        with pytest.raises(CommandOutcomeUnknown):
            await pipe.incr("m")


async def test_a_watched_transaction_whose_reply_was_lost_is_in_doubt(service: Service, client: SentinelClient) -> None:
    """`transaction` does not begin again for it: it may have run."""
    service.master.tap("EXEC", instead=HANG_UP)
    with pytest.raises(CommandOutcomeUnknown, match=r"^a transaction of 1 commands"):
        await client.transaction(add_one, "n")
    assert len(service.master.commands("EXEC")) == 1


async def test_leaving_without_executing_watches_no_more(service: Service, client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        pipe.multi()
        pipe.set("n", 1)
    assert names(service) == ["WATCH", "UNWATCH"]
    assert len(client._pool._idle) == 1
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        assert await pipe.unwatch() is True
        assert client._pool._out == set()
        assert await pipe.unwatch() is True
        assert await pipe.set("n", 2).execute() == [True]
    pipe = client.pipeline()
    await pipe.watch("n")
    await pipe.discard()
    await pipe.aclose()
    assert client._pool._out == set()


async def test_cancelled_while_it_watches(service: Service, client: SentinelClient) -> None:
    """State that remains: the connection is back, or closed; the block is left at once."""
    with trio.move_on_after(1) as scope:
        async with client.pipeline() as pipe:
            await pipe.watch("n")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert client._pool._out == set()
    assert await client.transaction(add_one, "n") == [True]


async def test_misuse_is_told_as_redis_py_tells_it(client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        pipe.set("n", 1)
        with pytest.raises(RedisError, match="without an initial WATCH"):
            pipe.multi()
        await pipe.reset()
        pipe.multi()
        with pytest.raises(RedisError, match="nested"):
            pipe.multi()
        with pytest.raises(RedisError, match="after a MULTI"):
            await pipe.watch("n")


async def test_an_error_while_it_watches_leaves_the_watch(service: Service, client: SentinelClient) -> None:
    async with client.pipeline() as pipe:
        await pipe.watch("n")
        service.master.tap("GET", instead=Reply(Error("WRONGTYPE Operation")))
        with pytest.raises(ResponseError):
            await pipe.get("n")
        assert pipe.watching
        await add_one(pipe)
        assert await pipe.execute() == [True]


async def test_a_leases_pipelines_are_on_the_lease(service: Service, client: SentinelClient) -> None:
    async with client.dedicated() as lease:
        await lease.select(3)
        async with lease.pipeline() as pipe:
            assert await pipe.set("n", 5).get("n").execute() == [True, b"5"]
        assert await lease.transaction(add_one, "n", value_from_callable=True) == 5
        assert await lease.get("n") == b"6"
    assert await client.get("n") is None


async def test_without_the_rule_for_refusals_a_transaction_would_not_reach_the_new_master(
    service: Service, client: SentinelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard of `test_a_transaction_that_a_demoted_master_threw_away...`, switched off."""
    monkeypatch.setattr(shared, "refused_unrun", lambda *_, **__: None)
    await client.pipeline().get("n").execute()  # which makes the connection
    service.master.program.master = service.servers[1].address
    async with client.pipeline() as pipe:
        with pytest.raises(ReadOnlyError):
            await pipe.set("n", 1).execute()


async def test_a_transaction_does_not_spin_at_a_server_that_is_busy(service: Service, client: SentinelClient) -> None:
    def change(pipe: Pipeline) -> None:
        pipe.multi()
        pipe.set("k", 1)

    busy = Reply(Error("BUSY Redis is busy running a script."))
    aborted = Reply(Error("EXECABORT Transaction discarded because of previous errors."))
    service.master.tap("SET", times=5, instead=busy)
    service.master.tap("EXEC", times=5, instead=aborted)
    await client.transaction(change, "k")
    assert trio.current_time() >= 0.5


async def test_what_stands_beside_a_refused_transaction_runs_once(service: Service, client: SentinelClient) -> None:
    service.master.tap("SET", instead=Reply(Error("READONLY You can't write against a read only replica.")))
    service.master.tap("EXEC", instead=Reply(Error("EXECABORT Transaction discarded because of previous errors.")))
    pipe = client.pipeline(transaction=False).incr("n")
    pipe.execute_command("MULTI")
    pipe.set("k", 1)
    pipe.execute_command("EXEC")
    await pipe.execute(raise_on_error=False)
    assert data(service, b"n") == b"1"


@pytest.mark.parametrize("transaction", [False, True])
async def test_a_script_that_need_not_be_loaded_need_not_be_allowed_to_be(
    service: Service, client: SentinelClient, transaction: bool
) -> None:
    """The commands have run: to raise the refusal to load it would say that they had not."""
    script = client.register_script("return 1")
    await script()
    service.master.program.users["default"] = User(forbidden=frozenset({"SCRIPT"}))
    async with client.pipeline(transaction=transaction) as pipe:
        pipe.incr("n")
        await script(client=pipe)
        assert await pipe.execute() == [1, b"of a script"]
    service.master.program.scripts.clear()
    async with client.pipeline(transaction=transaction) as pipe:
        await script(client=pipe)
        with pytest.raises(RedisError, match="no permissions to run the 'script' command"):
            await pipe.execute()


async def test_a_pipeline_of_a_client_that_was_never_opened(service: Service) -> None:
    """It says so, and not that somebody has closed it."""
    with pytest.raises(ClientClosed, match="is not open: use it inside its async with block"):
        await SentinelClient(service.addresses, "mymaster").pipeline().get("n").execute()
