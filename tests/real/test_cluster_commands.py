"""Commands on a cluster while its nodes die and its slots move: the history is checked, and each redirection."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from redis.exceptions import MovedError, ResponseError

from tests.real.histories import Workload
from tests.real.proxy import open_proxy
from tests.real.scenes import HANG, clients_tasks, until
from trio_sentinel_scan import (
    AuthenticationFailed,
    ClusterClient,
    CommandOutcomeUnknown,
    KeysInDifferentSlots,
    Message,
    connect,
)
from trio_sentinel_scan._core import command_keys
from trio_sentinel_scan._core.command_keys import Unlisted, key_places, read_key_places
from trio_sentinel_scan._core.replies import as_text
from trio_sentinel_scan._core.slots import slot_of
from trio_sentinel_scan._trio import cluster_router
from trio_sentinel_scan.testing import (
    LocalCluster,
    LocalClusterNode,
    LocalRedis,
    ServerBinary,
    make_test_certificates,
)

pytestmark = pytest.mark.trio

full = pytest.mark.full


@asynccontextmanager
async def open_client(cluster: LocalCluster, **options: Any) -> AsyncGenerator[ClusterClient]:
    """A client of which nothing is left afterwards."""
    with trio.fail_after(HANG):
        tasks = clients_tasks()
        defaults: dict[str, Any] = {"failover_timeout": 30.0}
        async with ClusterClient(cluster.addresses, **(defaults | options)) as client:
            yield client
        assert clients_tasks() == tasks


def keys_in(slot: int, number: int, prefix: bytes = b"") -> list[bytes]:
    """So many keys of one slot."""
    tag = next(tag for tag in (b"%d" % n for n in range(1_000_000)) if slot_of(tag) == slot)
    return [b"{%b}%b:%d" % (tag, prefix, n) for n in range(number)]


def has_owner(client: ClusterClient, slot: int, node: LocalClusterNode) -> bool:
    """Whether the client knows that the node has the slot."""
    owner = client.map.owner(slot)
    return owner is not None and owner.address == node.address


# ---- a numbered workload -----------------------------------------------------------------------------------------


async def planned_failover(cluster: LocalCluster) -> None:
    await cluster.failover(cluster.nodes[0])


async def killed(cluster: LocalCluster) -> None:
    await cluster.wait_for_new_master(await cluster.kill(cluster.nodes[1]))


async def slots_moved(cluster: LocalCluster) -> None:
    """Those of ten of the workload's counters, and of ten of its lists, one after the other."""
    for number in range(10):
        for name in (f"counter:{number}", f"list:{number}"):
            slot = slot_of(name.encode())
            owner = await cluster.owner(slot)
            await cluster.migrate_slot(slot, next(node for node in await cluster.masters() if node is not owner))


@pytest.mark.slow
@pytest.mark.parametrize(
    "befall, may_lose",
    [(planned_failover, True), (killed, True), (slots_moved, False)],
    ids=["planned failover", "SIGKILL", "migration"],
)
async def test_a_workload(server_binary: ServerBinary, befall: Any, may_lose: bool) -> None:
    """Each command ends, by its reply or by CommandOutcomeUnknown. What was answered is there (unless a failover lost
    it: replication is asynchronous), and nothing has run twice.
    """
    async with LocalCluster(node_timeout=1.0, binary=server_binary) as cluster, open_client(cluster) as client:
        workload = Workload(client, may_lose=may_lose)
        await workload.set_up()
        await cluster.wait_until_ready()
        async with workload.running():
            await befall(cluster)
        await workload.check()
        assert client.statistics().unavailable == 0
        assert client.statistics().redirected or befall is killed
        if befall is slots_moved:
            assert workload.unknown == 0


# ---- redirections ------------------------------------------------------------------------------------------------


async def test_a_hundred_tasks_that_are_redirected_ask_for_the_map_once(server_binary: ServerBinary) -> None:
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        slot = 42
        keys = keys_in(slot, 100)
        await client.set(keys[0], 0)
        await cluster.migrate_slot(slot, cluster.nodes[2])
        assert not has_owner(client, slot, cluster.nodes[2])
        before = client._monitor.refreshes
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(client.incr, key)
        assert has_owner(client, slot, cluster.nodes[2])
        assert client.statistics().redirected == 100
        await until(lambda: client._monitor.refreshes > before)
        await client.set(keys[0], 0)
        await trio.sleep(0.5)
        assert client._monitor.refreshes == before + 1
        assert client.statistics().redirected == 100


async def test_a_half_done_migration(each_server_binary: ServerBinary) -> None:
    """Keys are on both sides, and each command finds its own; the map stays as it is."""
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        slot = 7
        keys = keys_in(slot, 40)
        for key in keys:
            await client.set(key, key)
        known = client.map
        migration = await cluster.begin_migration(slot, cluster.nodes[1])
        await migration.move(20)
        assert [await client.get(key) for key in keys] == keys
        assert client.statistics().redirected == 20
        fresh = keys_in(slot, 5, b"fresh")
        for key in fresh:
            await client.set(key, key)
        assert set(fresh) <= await cluster.nodes[1].keys()
        assert client.map is known
        # Keys on both sides: the server says TRYAGAIN until they are together again.
        found: list[Any] = []

        async def ask() -> None:
            found.append(await client.mget(keys))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: client.statistics().sent_again > 40)
            assert not found
            await migration.move()
        assert found == [keys]
        await migration.finish()
        assert [await client.get(key) for key in keys] == keys
        assert has_owner(client, slot, cluster.nodes[1])


async def test_keys_in_different_slots(server_binary: ServerBinary) -> None:
    """Said before anything is sent; what has a way to do it all the same, does it."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        sent = client.statistics().sent
        with pytest.raises(KeysInDifferentSlots, match="MGET has keys in 2 slots") as caught:
            await client.mget("a", "b")
        assert caught.value.slots == tuple(sorted((slot_of(b"a"), slot_of(b"b"))))
        assert client.statistics().sent == sent
        assert await client.mset_nonatomic({"a": 1, "b": 2, "c": 3}) == [True, True, True]
        assert await client.mget_nonatomic("a", "b", "nothing", "c") == [b"1", b"2", None, b"3"]
        assert await client.exists("a", "b", "nothing") == 2
        assert await client.touch("a", "b", "c") == 3
        assert await client.unlink("a") == 1
        assert await client.delete("a", "b", "c") == 2


# ---- several commands --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_pipelines_while_slots_move(server_binary: ServerBinary) -> None:
    """Each result is its command's own, each INCR ran once, and those of one key ran in their order."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        keys = [f"n:{number}" for number in range(40)]
        rounds = 0
        done = False

        def has_gone_on(since: int) -> bool:
            return rounds > since

        async def count() -> None:
            nonlocal rounds
            while not done:
                pipe = client.pipeline()
                for key in keys:
                    pipe.incr(key).get(key).incr(key)
                results = await pipe.execute()
                now = 2 * rounds
                assert results == [now + 1, b"%d" % (now + 1), now + 2] * len(keys)
                rounds += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for key in keys[:15]:
                slot = slot_of(key.encode())
                owner = await cluster.owner(slot)
                target = next(node for node in await cluster.masters() if node is not owner)
                migration = await cluster.begin_migration(slot, target)
                begun = rounds
                await until(partial(has_gone_on, begun))
                await migration.move()
                begun = rounds
                await until(partial(has_gone_on, begun))
                await migration.finish()
            done = True
        assert [await client.get(key) for key in keys] == [b"%d" % (2 * rounds)] * len(keys)
        assert client.statistics().redirected >= 15


@pytest.mark.slow
async def test_transactions_while_their_slot_moves(server_binary: ServerBinary) -> None:
    """A hundred of them, by ten tasks; half of what they have watched is changed under them, by each other."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        slot = 99
        one, two = keys_in(slot, 2)
        await client.mset({one: 0, two: 0})

        async def add_one(pipe: Any) -> None:
            first, second = int(await pipe.get(one)), int(await pipe.get(two))
            pipe.multi()
            pipe.set(one, first + 1).set(two, second + 1)

        async def call() -> None:
            for _ in range(10):
                await client.transaction(add_one, one, two)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
            for node in (cluster.nodes[1], cluster.nodes[2]):
                await cluster.migrate_slot(slot, node)
        assert await client.mget(one, two) == [b"100", b"100"]
        async with client.lock(one + b":lock", timeout=10):
            assert await client.exists(one + b":lock") == 1
        script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
        assert await script(keys=[one], args=[5]) == 105
        await cluster.nodes[2].execute("SCRIPT", "FLUSH")
        assert await script(keys=[one], args=[5]) == 110
        await cluster.migrate_slot(slot, cluster.nodes[0])
        pipe = client.pipeline()
        await script(keys=[one], args=[5], client=pipe)
        assert await pipe.execute() == [115]


# ---- connections of one's own ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("befall", ["planned failover", "SIGKILL", "migration"])
async def test_a_blocking_command_goes_where_its_slot_goes(server_binary: ServerBinary, befall: str) -> None:
    async with LocalCluster(node_timeout=1.0, binary=server_binary) as cluster, open_client(cluster) as client:
        key = keys_in(3, 1)[0]
        owner = await cluster.owner(3)
        found: list[Any] = []

        async def pop() -> None:
            while not found:
                try:
                    found.append(await client.blpop([key], timeout=0))
                except CommandOutcomeUnknown:
                    # Its connection was lost: it may have popped, and the caller knows that nothing was there.
                    assert befall == "SIGKILL"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pop)
            while "cmd=blpop" not in as_text(await owner.execute("CLIENT", "LIST")):
                pass
            match befall:
                case "planned failover":
                    await cluster.failover(owner)
                case "SIGKILL":
                    await cluster.wait_for_new_master(await cluster.kill(owner))
                case _:
                    await cluster.migrate_slot(3, cluster.nodes[1])
            await client.rpush(key, "value")
        assert found == [(key, b"value")]


async def test_a_lease_is_of_one_nodes_connection(server_binary: ServerBinary) -> None:
    async with LocalCluster(binary=server_binary) as cluster, open_client(cluster) as client:
        async with client.dedicated(key="x") as lease:
            assert await lease.set("x", 1)
            assert await lease.wait(1, 5000) == 1
            node = client.get_node_from_key("x")
            assert node is not None
            assert lease.server.address == node.address
        replica = client.get_replicas()[0]
        for named in (replica, replica.node_id, str(replica.address), tuple(replica.address)):
            async with client.dedicated(node=named) as lease:
                assert (await lease.role())[0] == b"slave"
        async with client.dedicated(key="x") as lease:
            await cluster.migrate_slot(slot_of(b"x"), next(n for n in cluster.nodes[:3] if n.address != node.address))
            with pytest.raises(MovedError):
                await lease.get("x")


# ---- access ------------------------------------------------------------------------------------------------------


async def test_with_tls_and_a_user_by_url(tls_server_binary: ServerBinary, tmp_path: Path) -> None:
    certificates = await trio.to_thread.run_sync(make_test_certificates, tmp_path)
    async with LocalCluster(
        replicas=0, username="app", password="pass word", tls=certificates, binary=tls_server_binary
    ) as cluster:
        context = ssl.create_default_context(cafile=str(certificates.ca))
        shards = tls_server_binary.version_info >= (7,)
        with trio.fail_after(HANG):
            async with connect(cluster.url, ssl=context) as client:
                assert isinstance(client, ClusterClient)
                assert await client.mset_nonatomic({"a": 1, "b": 2, "c": 3}) == [True] * 3
                slot = slot_of(b"a")
                owner = await cluster.owner(slot)
                await cluster.migrate_slot(slot, next(node for node in cluster.nodes if node is not owner))
                assert await client.mget_nonatomic("a", "b", "c") == [b"1", b"2", b"3"]
                assert client.statistics().redirected == 1
                assert await client.acl_whoami() == "app"
                # The connections of a scan are its own, and log in by themselves.
                found: list[bytes] = []
                async with client.open_scan(count=1, prefetch=0) as pages:
                    found += await pages.receive()
                    await cluster.migrate_slot(slot, owner)
                    async for page in pages:
                        found += page
                assert set(found) == {b"a", b"b", b"c"}
                assert pages.summary.complete
                async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                    channels = ["a", "b", "c"]
                    await (subscriber.ssubscribe if shards else subscriber.subscribe)(*channels)
                    for channel in channels:
                        await (client.spublish if shards else client.publish)(channel, "x")
                    heard = [await subscriber.receive() for _ in channels]
                    assert {message.channel for message in heard if isinstance(message, Message)} == {b"a", b"b", b"c"}
        with pytest.raises(AuthenticationFailed):
            async with ClusterClient(cluster.addresses, username="app", password="wrong", ssl=context):
                raise AssertionError("it let us in")


async def test_nodes_that_announce_what_cannot_be_reached(server_binary: ServerBinary, nursery: trio.Nursery) -> None:
    """`address_map` is for redirections, too."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster:
        proxies = {node.address: await open_proxy(nursery, node.address) for node in cluster.nodes}
        address_map = {address: proxy.address for address, proxy in proxies.items()}
        with trio.fail_after(HANG):
            async with ClusterClient([proxies[cluster.nodes[0].address].address], address_map=address_map) as client:
                for number in range(50):
                    await client.set(f"k{number}", number)
                slot = slot_of(b"k7")
                owner = await cluster.owner(slot)
                await cluster.migrate_slot(slot, next(node for node in cluster.nodes if node is not owner))
                assert await client.mget_nonatomic([f"k{number}" for number in range(50)]) == [
                    b"%d" % number for number in range(50)
                ]
                assert client.statistics().redirected == 1
                # For a scan's lanes, and for the nodes that channels are at.
                async with client.open_scan(max_nodes_at_once=2) as pages:
                    found = {key for page in [page async for page in pages] for key in page}
                assert found == {b"k%d" % number for number in range(50)}
                assert pages.summary.complete
                async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
                    await (subscriber.ssubscribe if server_binary.version_info >= (7,) else subscriber.subscribe)("k7")
                    await (client.spublish if server_binary.version_info >= (7,) else client.publish)("k7", "x")
                    message = await subscriber.receive()
                    assert isinstance(message, Message)
                    assert message.data == b"x"
                assert {node.address for node in client.nodes} == set(proxies)
                assert all(proxy.links for proxy in proxies.values())
        for proxy in proxies.values():
            await proxy.wait_until_deserted()


# ---- all keys, all nodes -----------------------------------------------------------------------------------------


async def test_what_goes_to_several_nodes(each_server_binary: ServerBinary) -> None:
    """As in redis-py, whose words and results these are."""
    async with LocalCluster(binary=each_server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(300)
        assert {key async for key in client.scan_iter(count=20)} == keys
        assert {key async for key in client.scan_iter(match="key:1*", _type="string")} == {
            key for key in keys if key.startswith(b"key:1")
        }
        scanning: Any = client.scan(count=1000)
        cursors, found = await scanning
        assert set(cursors) == {str(node.address) for node in client.get_primaries()}
        assert set(found) == keys
        assert await client.dbsize(target_nodes=ClusterClient.PRIMARIES) == 300
        assert await client.dbsize(target_nodes=ClusterClient.ALL_NODES) == 600
        everywhere: Any = client.keys(target_nodes=client.get_primaries())
        assert set(await everywhere) == keys
        assert await client.ping(target_nodes="all")
        assert len(await client.cluster_nodes()) == 6
        assert (await client.cluster_info())["cluster_state"] == "ok"
        if each_server_binary.version_info >= (7,):  # Redis 6.2 has no CLUSTER SHARDS.
            assert len(await client.cluster_shards()) == 3
        assert await client.cluster_countkeysinslot(client.keyslot("key:1")) >= 1
        infos = await client.info("replication", target_nodes="replicas")
        assert [info["role"] for info in infos.values()] == ["slave"] * 3
        assert (
            await client.execute_command("CLUSTER", "MYID", node=cluster.nodes[0].address)
            == (await cluster.nodes[0].node_id()).encode()
        )
        await client.flushall()
        assert await client.dbsize(target_nodes="primaries") == 0
        await client.hset("h", mapping={f"f{number}": number for number in range(700)})
        assert len([field async for field in client.hscan_iter("h", count=10)]) >= 700


async def test_the_table_of_keys_is_the_servers(each_server_binary: ServerBinary) -> None:
    """A server that says something else of a command fails here."""
    async with LocalRedis(binary=each_server_binary) as server:
        known = list(entries_of(await server.execute("COMMAND")))
    wrong = {}
    for name, entry in known:
        words = tuple(name.split("|"))
        said = read_key_places([entry])
        below = command_keys._SUBCOMMANDS.get(name)
        if below and said is not Unlisted.NO_KEYS:
            # Before 7.0 a server names no subcommands, and says of all of them what is true of those with keys.
            words = (name, next(iter(below)))
        places = key_places(words[0], (*words, *(b"1" for _ in range(20))))
        if name in ONLY_IN_6_2:
            assert each_server_binary.version_info < (7,)
        elif places is None:
            wrong[name] = "not listed"
        elif said is Unlisted.ASK_EACH_TIME:
            # (GETKEYS would tell; what is listed for these is tested by their words, in tests/core.)
            assert places is not Unlisted.NO_KEYS
        elif places != said and name not in BY_CHANNEL:
            wrong[name] = f"{places}, not {said}"
    assert wrong == {}
    assert len(known) > 200


# A channel has a slot, too, by which PUBLISH is spread over the nodes; redis-py does the same.
BY_CHANNEL = {"PUBLISH"}
# Not in the table, so that the server is asked each time: traps for HTTP, and LCS's forerunner.
ONLY_IN_6_2 = {"HOST:", "POST", "STRALGO"}


def entries_of(reply: Any) -> Iterator[tuple[str, Any]]:
    """Each command without subcommands, and each subcommand."""
    for entry in reply:
        below = entry[9] if len(entry) > 9 else []
        if below:
            yield from entries_of(below)
        else:
            yield as_text(entry[0]).upper(), entry


async def test_a_command_that_no_table_has(each_server_binary: ServerBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers tell where its keys are: once, or each time where that depends on its words."""
    for name in ("STRLEN", "ZUNION"):
        monkeypatch.delitem(command_keys._TABLE, name)
    monkeypatch.setattr(cluster_router, "HAS_ONE_KEY", frozenset[str]())
    async with LocalCluster(replicas=0, binary=each_server_binary) as cluster, open_client(cluster) as client:
        await client.set("key", "value")
        sent = client.statistics().sent
        assert [await client.strlen("key") for _ in range(3)] == [5, 5, 5]
        assert client.statistics().sent == sent + 4
        await client.zadd("{z}1", {"a": 1})
        sent = client.statistics().sent
        for _ in range(2):
            assert await client.zunion(["{z}1", "{z}2"]) == [b"a"]
        assert client.statistics().sent == sent + 5
        with pytest.raises(KeysInDifferentSlots):
            await client.zunion(["a", "b"])
        with pytest.raises(ResponseError, match="unknown command"):
            await client.execute_command("FROBNICATE", "key")
