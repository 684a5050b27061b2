"""A cluster's commands on fake nodes: redirections, waits, and what is left behind when a caller is cancelled."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import trio
from redis.exceptions import MovedError, NoPermissionError, ResponseError

from tests.trio.fakes import (
    HANG_UP,
    SILENCE,
    CancelAtStep,
    Error,
    FakeCluster,
    Network,
    Reply,
    on_mock_time,
    settled,
)
from trio_sentinel_scan import (
    ClientClosed,
    ClusterClient,
    CommandNotShareable,
    CommandOutcomeUnknown,
    ConfigError,
    KeysInDifferentSlots,
    RedirectionLoop,
    ScanInterrupted,
    ServerUnavailable,
    TooManyCommandsWaiting,
)
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.slots import slot_of

pytestmark = pytest.mark.trio(run=on_mock_time)

KEY = b"key"
SLOT = slot_of(KEY)


@pytest.fixture(params=[True, False], ids=["socket", "tls"])
def cluster(network: Network, request: pytest.FixtureRequest) -> FakeCluster:
    network.at_once = request.param
    return FakeCluster(network)


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncGenerator[ClusterClient]:
    async with ClusterClient(cluster.addresses) as client:
        yield client


def others(cluster: FakeCluster) -> list[Any]:
    """The nodes that do not have the key's slot."""
    return [host for host in cluster.hosts if host is not cluster.of(KEY)]


def words_of(host: Any) -> list[list[bytes]]:
    """What a node was asked for beside its greeting and the map."""
    return [
        words for _, words in host.log if words[0] not in {b"HELLO", b"CLIENT", b"ROLE", b"INFO", b"CLUSTER", b"AUTH"}
    ]


# ---- redirections ------------------------------------------------------------------------------------------------


async def test_a_command_goes_to_its_slots_node(cluster: FakeCluster, client: ClusterClient) -> None:
    await client.set(KEY, "value")
    assert await client.get(KEY) == b"value"
    assert words_of(cluster.of(KEY)) == [[b"SET", KEY, b"value"], [b"GET", KEY]]
    assert all(words_of(host) == [] for host in others(cluster))


async def test_moved_is_followed_and_remembered(cluster: FakeCluster, client: ClusterClient) -> None:
    old, new = cluster.of(KEY), others(cluster)[0]
    cluster.move(SLOT, new)
    await client.set(KEY, "value")
    await client.set(KEY, "value")
    assert len(words_of(old)) == 1
    assert len(words_of(new)) == 2
    owner = client.map.owner(SLOT)
    assert owner is not None
    assert owner.address == new.address
    assert client.statistics().redirected == 1


async def test_asking_stands_beside_its_command_with_nothing_in_between(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """However many tasks send to that node at the same time. And it is not for the next one."""
    source, target = cluster.of(KEY), others(cluster)[0]
    cluster.migrating[SLOT] = target.address
    target.delay = 0.1
    known = client.map
    mine = next(b"%d" % n for n in range(1000) if cluster.of(b"%d" % n) is target)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(client.set, mine, number)
            nursery.start_soon(client.set, b"{key}%d" % number, number)
    log = words_of(target)
    asked = [at for at, words in enumerate(log) if words == [b"ASKING"]]
    assert len(asked) == 20
    assert all(log[at + 1][1].startswith(b"{key}") for at in asked)
    assert {words[1] for words in words_of(source)} == {b"{key}%d" % number for number in range(20)}
    assert client.map is known


async def test_nodes_that_send_a_command_in_a_circle(cluster: FakeCluster, client: ClusterClient) -> None:
    one, two = cluster.of(KEY), others(cluster)[0]
    one.program.believes[SLOT] = two.address
    two.program.believes[SLOT] = one.address
    began = trio.current_time()
    with pytest.raises(RedirectionLoop, match=r"SET was redirected 50 times in a row") as caught:
        await client.set(KEY, "value")
    assert caught.value.slot == SLOT
    assert "key" not in str(caught.value)
    # It had time to mend.
    assert trio.current_time() - began > 3
    one.program.believes.clear()
    assert await client.get(KEY) is None


async def test_nodes_that_come_to_agree(cluster: FakeCluster, client: ClusterClient) -> None:
    one, two = cluster.of(KEY), others(cluster)[0]
    one.program.believes[SLOT] = two.address
    two.program.believes[SLOT] = one.address
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.set, KEY, "value")
        await trio.sleep(1)
        two.program.believes.clear()
        one.program.believes.clear()
    assert await client.get(KEY) == b"value"


async def test_moved_to_a_node_that_is_not_there(cluster: FakeCluster, client: ClusterClient) -> None:
    """The map is asked for, and says better."""
    one, two = cluster.of(KEY), others(cluster)[0]
    one.tap("SET", times=1, instead=Reply(Error(f"MOVED {SLOT} 10.0.0.1:9999")))
    await client.set(KEY, "value")
    assert len(words_of(one)) == 2
    assert words_of(two) == []


async def test_a_redirection_that_names_no_host_means_the_one_that_was_asked(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    new = others(cluster)[0]
    cluster.of(KEY).tap("SET", instead=Reply(Error(f"MOVED {SLOT} :{new.address[1]}")))
    cluster.move(SLOT, new)
    await client.set(KEY, "value")
    assert words_of(new) == [[b"SET", KEY, b"value"]]


async def test_a_hundred_redirections_of_as_many_slots_ask_for_the_map_once(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """As when a master is replaced."""
    old, new = cluster.hosts[:2]
    keys = [b"%d" % n for n in range(600)]
    keys = [key for key in keys if cluster.of(key) is old][:100]
    for slot in range(16384):
        if cluster.owner[slot] == old.address:
            cluster.owner[slot] = new.address
    before = client._monitor.refreshes
    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(client.set, key, "value")
    await trio.sleep(1)
    assert client.statistics().redirected == len(keys) == 100
    assert client._monitor.refreshes == before + 1


# ---- waits -------------------------------------------------------------------------------------------------------


async def test_a_slot_without_an_owner_is_waited_for(cluster: FakeCluster, client: ClusterClient) -> None:
    """Whether the map knows of it or not."""
    owner = cluster.of(KEY)
    cluster.move(SLOT, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.set, KEY, "value")
        await trio.sleep(5)
        assert client.map.owner(SLOT) is None
        nursery.start_soon(client.set, KEY, "value")
        await settled()
        assert client.statistics().waiting == 2
        cluster.move(SLOT, owner)
    assert await client.get(KEY) == b"value"
    assert client.statistics().waiting == 0


@pytest.mark.parametrize(
    "refusal",
    ["CLUSTERDOWN Hash slot not served", "TRYAGAIN Multiple keys request during rehashing of slot", "LOADING Redis is"],
)
async def test_waiting_ends_with_the_failover_timeout(cluster: FakeCluster, refusal: str) -> None:
    cluster.of(KEY).tap("SET", instead=Reply(Error(refusal)), times=1e9)
    async with ClusterClient(cluster.addresses, failover_timeout=7.0) as client:
        began = trio.current_time()
        with pytest.raises(ServerUnavailable, match=f"no node took SET \\(slot {SLOT}\\) within 7 s"):
            await client.set(KEY, "value")
        assert 7 <= trio.current_time() - began < 7.5
        cluster.move(SLOT, None)
        await client._monitor.refreshed()
        with pytest.raises(ServerUnavailable, match="no node has that slot"):
            await client.set(KEY, "value")
        assert client.statistics().unavailable == 2


async def test_a_node_that_is_away_is_waited_for_until_another_has_its_slots(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    old, new = cluster.of(KEY), others(cluster)[0]
    await client.set(KEY, "value")
    old.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.set, KEY, "other")
        await trio.sleep(5)
        assert words_of(new) == []
        for slot in range(16384):
            if cluster.owner[slot] == old.address:
                cluster.owner[slot] = new.address
        cluster.epoch += 1
    assert words_of(new) == [[b"SET", KEY, b"other"]]


async def test_a_node_that_is_voted_out_and_says_nothing_more_is_left(cluster: FakeCluster) -> None:
    """Though no timeout of the client's ends the wait for its replies."""
    old, new = cluster.of(KEY), others(cluster)[0]
    async with ClusterClient(cluster.addresses, response_timeout=None) as client:
        await client.set(KEY, "value")
        old.hang()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, KEY)

            async def write() -> None:
                with pytest.raises(CommandOutcomeUnknown, match="has left the cluster"):
                    await client.set(KEY, "other")

            nursery.start_soon(write)
            await trio.sleep(5)
            for slot in range(16384):
                if cluster.owner[slot] == old.address:
                    cluster.owner[slot] = new.address
            cluster.epoch += 1
            cluster.hosts.remove(old)
        assert words_of(new) == [[b"GET", KEY]]


# ---- lost --------------------------------------------------------------------------------------------------------


async def test_a_write_whose_connection_is_lost_is_not_sent_again(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.of(KEY).tap("SET", instead=HANG_UP)
    cluster.of(KEY).tap("GET", instead=HANG_UP)
    with pytest.raises(CommandOutcomeUnknown, match=r"SET was sent to 10\.0\.0\.1"):
        await client.set(KEY, "value")
    assert await client.get(KEY) == b"value"
    assert client.statistics().outcome_unknown == 1
    assert client.statistics().sent_again == 1


async def test_with_retry_writes_it_is(cluster: FakeCluster) -> None:
    cluster.of(KEY).tap("INCRBY", instead=HANG_UP)
    async with ClusterClient(cluster.addresses, retry_writes=True) as client:
        assert await client.incr(KEY) == 2


async def test_more_than_max_waiting_are_turned_away(cluster: FakeCluster) -> None:
    cluster.of(KEY).tap("GET", instead=SILENCE, times=1e9)
    async with ClusterClient(cluster.addresses, max_waiting=3) as client, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client.get, KEY)
        await settled()
        with pytest.raises(TooManyCommandsWaiting):
            await client.get(KEY)
        nursery.cancel_scope.cancel()


# ---- several nodes -----------------------------------------------------------------------------------------------


async def test_a_command_for_all_masters_asks_each(cluster: FakeCluster, client: ClusterClient) -> None:
    for number in range(30):
        await client.set(f"{number}", number)
    assert await client.dbsize(target_nodes="primaries") == 30
    assert sum(host.commands("DBSIZE") == [[b"DBSIZE"]] for host in cluster.hosts) == 3
    assert await client.execute_command("DBSIZE", node=cluster.addresses[0]) == len(cluster.hosts[0].program.data[0])
    cluster.hosts[1].tap("DBSIZE", instead=Reply(Error("ERR not now")))
    with pytest.raises(ResponseError, match="not now"):
        await client.dbsize(target_nodes="primaries")


async def test_a_command_for_any_master_goes_to_one_that_is_there(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.hosts[0].kill()
    cluster.hosts[1].kill()
    assert await client.ping()
    assert words_of(cluster.hosts[2]) == [[b"PING"]]


async def test_a_node_that_is_named(cluster: FakeCluster, client: ClusterClient) -> None:
    """Its word is final, and it must be there."""
    node = others(cluster)[0]
    with pytest.raises(MovedError):
        await client.execute_command("GET", KEY, node=node.address)
    with pytest.raises(ConfigError, match="node"):
        await client.execute_command("GET", KEY, node="10.0.0.1:9999")
    with pytest.raises(ConfigError, match="not both"):
        await client.execute_command("GET", KEY, node=node.address, target_nodes="all")
    with pytest.raises(ConfigError, match="no replicas"):
        await client.dbsize(target_nodes="replicas")


async def test_what_a_cluster_cannot_do(client: ClusterClient) -> None:
    with pytest.raises(CommandNotShareable, match="database 0 only"):
        await client.execute_command("SELECT", 1)
    with pytest.raises(CommandNotShareable, match="dedicated"):
        await client.execute_command("ASKING")
    with pytest.raises(KeysInDifferentSlots):
        await client.mget("a", "b")
    with pytest.raises(ConfigError, match="node or key"):
        client.dedicated()


async def test_it_works_only_while_it_is_open(cluster: FakeCluster) -> None:
    client = ClusterClient(cluster.addresses)
    for use in (lambda: client.map, lambda: client.nodes, client.get_primaries, lambda: client.dedicated(key="k")):
        with pytest.raises(ClientClosed):
            use()
    with pytest.raises(ClientClosed):
        await client.get(KEY)
    async with client:
        assert repr(client) == "<ClusterClient of 3 nodes given>"
        cluster.of(KEY).hang()
        failures: list[Exception] = []

        async def ask() -> None:
            try:
                await client.get(KEY)
            except ClientClosed as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await settled()
            await client._close_commands()
        assert len(failures) == 1
        cluster.of(KEY).resume()


# ---- pipelines ---------------------------------------------------------------------------------------------------


async def test_a_pipeline_goes_to_all_nodes_at_the_same_time(cluster: FakeCluster, client: ClusterClient) -> None:
    for host in cluster.hosts:
        host.delay = 0.01
    keys = [b"%d" % n for n in range(60)]
    pipe = client.pipeline()
    for key in keys:
        pipe.set(key, key).get(key)
    results = await pipe.execute()
    assert results == [item for key in keys for item in (True, key)]
    assert {len(host.wires) for host in cluster.hosts} == {1, 2}


async def test_each_of_a_pipeline_is_redirected_by_itself(cluster: FakeCluster, client: ClusterClient) -> None:
    """MOVED, ASK, and no owner for a while; in the end the results are in order."""
    keys = [b"%d" % n for n in range(60)]
    for key in keys:
        await client.set(key, key)
    moved, asked, gone = keys[0], keys[1], keys[2]
    slots = {key: slot_of(key) for key in keys}
    assert len({slots[moved], slots[asked], slots[gone]}) == 3

    def carry(key: bytes, to: Any) -> None:
        source = cluster.of(key)
        to.program.put(0, key, source.program.data[0][key])
        source.program.put(0, key, None)

    target = next(host for host in cluster.hosts if host is not cluster.of(moved))
    carry(moved, target)
    cluster.move(slots[moved], target)
    target = next(host for host in cluster.hosts if host is not cluster.of(asked))
    cluster.migrating[slots[asked]] = target.address
    carry(asked, target)
    owner = cluster.of(gone)
    owner.program.believes[slots[gone]] = None
    async with trio.open_nursery() as nursery:
        found: list[Any] = []

        async def run() -> None:
            pipe = client.pipeline()
            for key in keys:
                pipe.get(key).set(key, b"new").get(key)
            found.extend(await pipe.execute())

        nursery.start_soon(run)
        await trio.sleep(1)
        assert not found
        owner.program.believes.clear()
    assert found == [item for key in keys for item in (key, True, b"new")]


async def test_what_a_pipeline_lost_is_said_of_each_command(cluster: FakeCluster, client: ClusterClient) -> None:
    """Those of other nodes have their results."""
    keys = [next(b"%d" % n for n in range(1000) if cluster.of(b"%d" % n) is host) for host in cluster.hosts]
    cluster.hosts[1].tap("SET", instead=HANG_UP)
    pipe = client.pipeline()
    for key in keys:
        pipe.set(key, key)
    results = await pipe.execute(raise_on_error=False)
    assert [results[0], results[2]] == [True, True]
    assert isinstance(results[1], CommandOutcomeUnknown)
    cluster.hosts[1].tap("SET", instead=HANG_UP)
    for key in keys:
        pipe.set(key, key)
    with pytest.raises(CommandOutcomeUnknown, match=r"Command # 2 \(SET\) of pipeline"):
        await pipe.execute()


async def test_a_pipelines_command_has_one_node(cluster: FakeCluster, client: ClusterClient) -> None:
    pipe = client.pipeline()
    with pytest.raises(CommandNotShareable, match="several nodes"):
        pipe.flushall()
    with pytest.raises(CommandNotShareable, match="several nodes"):
        pipe.dbsize(target_nodes="all")
    with pytest.raises(CommandNotShareable, match="call it on the client"):
        pipe.mget_nonatomic("a", "b")
    with pytest.raises(CommandNotShareable, match="database 0"):
        pipe.execute_command("SELECT", 1)
    with pytest.raises(ConfigError, match="not both"):
        pipe.execute_command("DBSIZE", node=cluster.addresses[0], target_nodes="all")
    for address in cluster.addresses:
        pipe.execute_command("DBSIZE", node=address)
    pipe.dbsize()
    assert await pipe.execute() == [0, 0, 0, 0]
    assert all(host.commands("DBSIZE") for host in cluster.hosts)
    with pytest.raises(ConfigError, match="not for a transaction"):
        client.pipeline(transaction=True).execute_command("DBSIZE", node=cluster.addresses[0])


async def test_a_transaction_follows_its_slot(cluster: FakeCluster, client: ClusterClient) -> None:
    pipe = client.pipeline(transaction=True)
    assert await pipe.set("{key}a", 1).incr("{key}a").execute() == [True, 2]
    source, target = cluster.of(KEY), others(cluster)[0]
    cluster.migrating[SLOT] = target.address
    assert await pipe.set("{key}b", 1).incr("{key}b").execute() == [True, 2]
    assert words_of(target)[:2] == [[b"ASKING"], [b"MULTI"]]
    cluster.migrating.clear()
    cluster.move(SLOT, target)
    assert await pipe.incr("{key}b").execute() == [3]
    assert len(source.commands("EXEC")) == 3
    with pytest.raises(KeysInDifferentSlots, match="a transaction of 2 commands"):
        await pipe.set("a", 1).set("b", 2).execute()
    assert await pipe.ping().execute() == [True]


async def test_what_is_watched_moves(cluster: FakeCluster, client: ClusterClient) -> None:
    """It is tried again at the new place: at once if the map was old, behind ASKING where only the keys have gone."""
    await client.set(KEY, 1)

    async def add_one(pipe: Any) -> None:
        now = int(await pipe.get(KEY) or 0)
        pipe.multi()
        pipe.set(KEY, now + 1)

    assert await client.transaction(add_one, KEY) == [True]
    source, target = cluster.of(KEY), others(cluster)[0]

    def carry() -> None:
        if (value := source.program.data[0].get(KEY)) is not None:
            target.program.put(0, KEY, value)
            source.program.put(0, KEY, None)

    carry()
    cluster.migrating[SLOT] = target.address
    assert await client.transaction(add_one, KEY) == [True]
    cluster.migrating.clear()
    cluster.move(SLOT, target)
    assert await client.transaction(add_one, KEY) == [True]
    assert await client.get(KEY) == b"4"
    cluster.move(SLOT, source)
    source.program.put(0, KEY, target.program.data[0][KEY])
    target.tap("GET", times=1, before=lambda: None)
    # Between WATCH and EXEC: nobody watches at the new place, so it begins again.
    moves: list[Any] = [target]

    async def add_and_move(pipe: Any) -> None:
        now = int(await pipe.get(KEY) or 0)
        if moves:
            target.program.put(0, KEY, source.program.data[0][KEY])
            cluster.move(SLOT, moves.pop())
        pipe.multi()
        pipe.set(KEY, now + 1)

    assert await client.transaction(add_and_move, KEY) == [True]
    assert await client.get(KEY) == b"5"
    pipe = client.pipeline()
    await pipe.watch(KEY)
    with pytest.raises(KeysInDifferentSlots):
        await pipe.get("other")
    with pytest.raises(ConfigError, match="is where its slot is"):
        await pipe.execute_command("GET", KEY, node=target.address)
    pipe.multi()
    pipe.set("other", 1)
    with pytest.raises(KeysInDifferentSlots):
        await pipe.execute()
    assert client._pool._out == set()


async def test_scripts_go_along_to_each_node(cluster: FakeCluster, client: ClusterClient) -> None:
    script = client.register_script("return redis.call('GET', KEYS[1])")
    keys = [next(b"%d" % n for n in range(1000) if cluster.of(b"%d" % n) is host) for host in cluster.hosts]
    pipe = client.pipeline()
    for key in keys:
        pipe.set(key, key)
        await script(keys=[key], client=pipe)
    results = await pipe.execute()
    assert len(results) == 6
    assert all(len(host.commands("SCRIPT", "LOAD")) == 1 for host in cluster.hosts)


# ---- cursors -----------------------------------------------------------------------------------------------------


async def test_scan_iter_goes_through_all_masters(cluster: FakeCluster, client: ClusterClient) -> None:
    keys = {b"%d" % n for n in range(200)}
    for key in keys:
        await client.set(key, "value")
    assert sorted([key async for key in client.scan_iter(count=7)]) == sorted(keys)
    first = {key async for key in client.scan_iter(target_nodes=client.nodes[0])}
    assert first == set(cluster.hosts[0].program.data[0])


@pytest.mark.parametrize("what", ["a slot moves", "a process restarts", "a slot moves unseen", "nobody tells of slots"])
async def test_scan_iter_says_when_it_may_have_missed_keys(
    cluster: FakeCluster, client: ClusterClient, what: str
) -> None:
    for n in range(200):
        await client.set(b"%d" % n, "value")
    with pytest.raises(ScanInterrupted):
        number = 0
        async for _ in client.scan_iter(count=7):
            number += 1
            if number != 20:
                continue
            match what:
                case "a slot moves":
                    cluster.move(0, cluster.hosts[2])
                    client._monitor.moved(0, client.nodes[2].address)
                case "a process restarts":
                    cluster.hosts[0].restart()
                case "a slot moves unseen":
                    cluster.move(0, cluster.hosts[2])
                case _:
                    cluster.move(0, cluster.hosts[2])
                    for host in cluster.hosts:
                        host.tap("CLUSTER SHARDS", instead=Reply(Error("LOADING dataset")), times=1000)


@pytest.mark.parametrize("waits", [False, True])
async def test_scan_iter_asks_nobody_when_the_client_is_closed(
    network: Network, waits: bool, nursery: trio.Nursery
) -> None:
    """With all keys in hand it has only the map to ask for, of which nobody tells any more."""
    cluster = FakeCluster(network)
    ended = trio.Event()

    async def go_on(keys: AsyncIterator[Any]) -> None:
        with pytest.raises(ClientClosed):
            await anext(keys)
        ended.set()

    async with ClusterClient(cluster.addresses) as client:
        await client.set(KEY, "value")
        keys = client.scan_iter()
        await anext(keys)
        if waits:
            for host in cluster.hosts:
                host.tap("CLUSTER SHARDS", instead=SILENCE)
            nursery.start_soon(go_on, keys)
            await settled()
            assert not ended.is_set()
    if not waits:
        nursery.start_soon(go_on, keys)
    with trio.fail_after(3600):
        await ended.wait()


async def test_a_cursor_does_not_follow_its_key_to_another_node(cluster: FakeCluster, client: ClusterClient) -> None:
    with pytest.raises(ScanInterrupted, match="another server process"):
        await client.hscan(KEY, cursor=17)
    assert words_of(cluster.of(KEY)) == []


# ---- cancellation ------------------------------------------------------------------------------------------------


async def get_moved(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.move(SLOT, others(cluster)[0])
    await client.get(KEY)


async def get_asked(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.migrating[SLOT] = others(cluster)[0].address
    await client.get(KEY)


async def run_pipeline(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.move(SLOT, others(cluster)[0])
    pipe = client.pipeline()
    for n in range(30):
        pipe.set(b"%d" % n, n)
    await pipe.get(KEY).execute()


async def pop(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.move(SLOT, others(cluster)[0])
    await client.ttl(KEY)
    await client.transaction(lambda pipe: pipe.multi(), KEY)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.full)], ids=["some", "all"])
@pytest.mark.parametrize("when", ["waiting", "waking"])
@pytest.mark.parametrize("work", [get_moved, get_asked, run_pipeline, pop])
async def test_cancelled_at_each_step_it_leaves_nothing_behind(work: Any, when: str, every: int) -> None:
    """Neither a task, nor a command without its reply, nor a connection out of the pool; and the next one works."""
    step = 1
    while not await cancelled_run(work, when, step):
        step += every
    assert step > 2


async def cancelled_run(work: Any, when: str, step: int) -> bool:
    """Whether the work was done before that step."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with trio.open_nursery() as nursery:
            network = Network(nursery, monkeypatch)
            network.at_once = True
            cluster = FakeCluster(network)
            async with ClusterClient(cluster.addresses) as client:
                task = trio.lowlevel.current_task()
                scope = trio.CancelScope()
                concerns = lambda other: other is task or other.name.endswith("see_through")  # noqa: E731 (it is short)
                instrument = CancelAtStep(scope, step, when, concerns=concerns)
                with scope:
                    trio.lowlevel.add_instrument(instrument)
                    try:
                        await work(cluster, client)
                    finally:
                        trio.lowlevel.remove_instrument(instrument)
                await settled()
                await trio.sleep(1)
                cluster.migrating.clear()
                assert client.statistics().in_flight == client.statistics().waiting == 0
                assert client._pool._out == set()
                await client.set(KEY, "value")
                assert await client.get(KEY) == b"value"
            assert network.open_client_ends == []
            nursery.cancel_scope.cancel()
    return not scope.cancel_called


# ---- what a second reader found ----------------------------------------------------------------------------------


async def test_a_command_for_all_masters_waits_for_the_one_that_is_being_replaced(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """It is in no map meanwhile, and has keys: an answer without it would be wrong."""
    for host in cluster.hosts:
        host.tap("FLUSHALL", instead=Reply(b"OK"))
    slots = [slot for slot in range(16384) if cluster.owner[slot] == cluster.hosts[0].address]
    for slot in slots:
        cluster.owner[slot] = None
    cluster.epoch += 1
    await client._monitor.refreshed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.flushall)
        await trio.sleep(5)
        assert not any(host.commands("FLUSHALL") for host in cluster.hosts)
        assert client.statistics().waiting == 1
        for slot in slots:
            cluster.owner[slot] = cluster.hosts[0].address
        cluster.epoch += 1
    assert [len(host.commands("FLUSHALL")) for host in cluster.hosts] == [1, 1, 1]


async def test_a_slot_that_has_no_owner_for_long_makes_it_fail(cluster: FakeCluster) -> None:
    slot = 100
    cluster.move(slot, None)
    async with ClusterClient(cluster.addresses, failover_timeout=3.0) as client:
        with pytest.raises(ServerUnavailable, match="DBSIZE was not sent to all masters: 1 slots had"):
            await client.dbsize(target_nodes="primaries")
        with pytest.raises(ServerUnavailable, match="SCAN was not sent"):
            _ = [key async for key in client.scan_iter()]
        assert not any(host.commands("DBSIZE") or host.commands("SCAN") for host in cluster.hosts)
        assert client.statistics().unavailable == 2
        assert await client.dbsize(target_nodes=client.get_primaries()) == 0
        assert [key async for key in client.scan_iter(target_nodes=client.get_primaries())] == []


async def test_each_master_is_asked_once_though_its_slots_go_to_another_meanwhile(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """The first slot of the first master moves while that one is away: it is that master all the same."""
    first, second = cluster.hosts[:2]
    for host in cluster.hosts:
        host.tap("FLUSHALL", instead=Reply(b"OK"))
    first.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.flushall)
        await trio.sleep(1)
        cluster.move(0, second)
        await trio.sleep(1)
        first.restart()
    assert [len(host.commands("FLUSHALL")) for host in cluster.hosts] == [1, 1, 1]


async def test_a_pipeline_keeps_its_order_though_the_map_changes_while_it_is_read(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """Where a command's keys are may have to be asked for; the one behind it is not to go another way."""
    old, new = cluster.of(KEY), others(cluster)[0]
    old.delay = 1.0

    def move() -> None:
        cluster.move(SLOT, new)
        client._monitor.moved(SLOT, Address(*new.address))

    for host in cluster.hosts:
        host.tap("COMMAND INFO", before=move, instead=Reply([None]))
    pipe = client.pipeline().set(KEY, "first").execute_command("FROBNICATE").set(KEY, "second")
    await pipe.execute(raise_on_error=False)
    assert [words[2] for host in cluster.hosts for words in host.commands("SET")] == [b"first", b"second"]
    assert await client.get(KEY) == b"second"


async def test_commands_that_no_table_has_keep_their_order_too(cluster: FakeCluster, client: ClusterClient) -> None:
    for host in cluster.hosts:
        host.tap("COMMAND INFO", instead=Reply([[b"frobnicate", 2, [b"write"], 1, 1, 1]]))
        host.tap("FROBNICATE", instead=Reply(b"done"))
    cluster.of(KEY).tap("SET", instead=Reply(Error("TRYAGAIN Multiple keys request during rehashing of slot")))
    results = await client.pipeline().set(KEY, 1).execute_command("FROBNICATE", KEY).execute(raise_on_error=False)
    assert [type(result).__name__ for result in results] == ["TryAgainError", "bytes"]
    assert len(cluster.of(KEY).commands("SET")) == 1


@pytest.mark.parametrize(
    "reply",
    [[], Error("ERR The command has no key arguments"), Error("ERR Invalid arguments specified for command")],
    ids=["an empty list", "none", "invalid"],
)
async def test_a_command_whose_keys_are_asked_for_may_have_none(
    cluster: FakeCluster, client: ClusterClient, reply: Any
) -> None:
    for host in cluster.hosts:
        host.tap("COMMAND INFO", instead=Reply([[b"frobnicate", -2, [b"movablekeys"], 0, 0, 0]]))
        host.tap("COMMAND GETKEYS", instead=Reply(reply))
        host.tap("FROBNICATE", instead=Reply(b"done"))
    assert await client.execute_command("FROBNICATE", 0) == b"done"


async def test_who_may_not_ask_for_keys_is_told(cluster: FakeCluster, client: ClusterClient) -> None:
    for host in cluster.hosts:
        host.tap("COMMAND INFO", instead=Reply([[b"frobnicate", -2, [b"movablekeys"], 0, 0, 0]]))
        host.tap("COMMAND GETKEYS", instead=Reply(Error("NOPERM this user has no permissions")))
    with pytest.raises(NoPermissionError):
        await client.execute_command("FROBNICATE", 0)


async def test_one_slot_of_a_master_that_is_away_goes_to_another(cluster: FakeCluster, client: ClusterClient) -> None:
    """That one is a master still, of its other slots."""
    old, new = cluster.of(KEY), others(cluster)[0]
    old.kill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.set, KEY, "value")
        await trio.sleep(1)
        cluster.move(SLOT, new)
        await trio.sleep(12)
    assert words_of(new) == [[b"SET", KEY, b"value"]]


async def test_a_watch_that_is_sent_in_circles_ends(cluster: FakeCluster, client: ClusterClient) -> None:
    one, two = cluster.of(KEY), others(cluster)[0]
    one.program.believes[SLOT] = two.address
    two.program.believes[SLOT] = one.address
    began = trio.current_time()
    with pytest.raises(RedirectionLoop, match="WATCH was redirected 50 times in a row") as caught:
        await client.transaction(lambda pipe: pipe.multi(), KEY)
    assert caught.value.slot == SLOT
    assert 3 < trio.current_time() - began < 10
    assert client._pool._out == set()


async def test_a_transaction_whose_slot_is_on_its_way_does_not_spin(
    cluster: FakeCluster, client: ClusterClient
) -> None:
    """What is watched is here still, what is read is not any more, for as long as the move lasts."""
    await client.set(KEY, 1)
    cluster.migrating[SLOT] = others(cluster)[0].address

    async def read_another(pipe: Any) -> None:
        await pipe.get("{key}:gone")

    with trio.move_on_after(2):
        await client.transaction(read_another, KEY)
    assert 10 < len(cluster.of(KEY).commands("WATCH")) < 30


async def test_a_blocking_command_keeps_the_failover_timeout(cluster: FakeCluster) -> None:
    """However often it is begun anew: a node that refuses, and then is away."""
    owner = cluster.of(KEY)
    owner.tap("BLPOP", times=40, instead=Reply(Error("CLUSTERDOWN Hash slot not served")))
    async with ClusterClient(cluster.addresses, failover_timeout=7.0) as client:
        began = trio.current_time()

        async def kill() -> None:
            await trio.sleep(3)
            owner.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            with pytest.raises(ServerUnavailable):
                await client.blpop([KEY], timeout=1)
        assert 7 <= trio.current_time() - began < 7.5


async def test_without_any_owner_commands_wait(cluster: FakeCluster) -> None:
    """A map may be empty: all nodes were reset."""
    async with ClusterClient(cluster.addresses, failover_timeout=3.0) as client:
        for slot in range(16384):
            cluster.owner[slot] = None
        cluster.epoch += 1
        await client._monitor.refreshed()
        assert client.nodes == ()
        for work in (
            lambda: client.get(KEY),
            lambda: client.blpop([KEY], timeout=1),
            client.ping,
            lambda: client.execute_command("MONITOR_ALONE"),
            lambda: client.transaction(lambda pipe: pipe.multi(), KEY),
            lambda: client.pipeline().ping().get(KEY).execute(),
            lambda: client.pipeline(transaction=True).ping().execute(),
            client.flushall,
        ):
            with pytest.raises(ServerUnavailable):
                await work()


async def test_redis_pys_names_for_nodes(cluster: FakeCluster, client: ClusterClient) -> None:
    host, port = cluster.addresses[1]
    found = client.get_node(host, port)
    assert found is not None
    assert found.address == (host, port)
    assert client.get_node(node_name=f"{host}:{port}") is found
    assert client.get_node(host, 1) is None
    assert client.get_random_node() in client.nodes
    assert client.get_default_node() in client.get_primaries()
    assert await client.ping(target_nodes=client.get_default_node()) is True
    wrongs: list[dict[str, Any]] = [
        {},
        {"host": host},
        {"host": host, "port": port, "node_name": "a:1"},
        {"port": port},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="node_name"):
            client.get_node(**wrong)
