"""A scan and its server: connections that fail, refusals, nonsense, other products, replicas."""

# What is tested here is how a whole block ends:
# ruff: noqa: PT012

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from redis import exceptions as redis_errors

from tests.trio.fakes import (
    COUNT,
    HANG_UP,
    KEYS,
    SILENCE,
    Cut,
    Error,
    Network,
    Raw,
    Reply,
    Service,
    User,
    on_mock_time,
    settled,
    sweep,
)
from trio_sentinel_scan import (
    AuthenticationFailed,
    ProtocolError,
    RedisClient,
    ScanError,
    ScanRefused,
    ScanRestartsExhausted,
    ScanStuck,
    SentinelClient,
    ServerUnavailable,
)

pytestmark = pytest.mark.trio(run=on_mock_time)

# ---- connections that fail --------------------------------------------------------------------------------------


def cursors(service: Service) -> list[int]:
    """The cursors of all SCANs that reached the first server."""
    return [int(words[1]) for words in service.servers[0].commands("SCAN")]


@pytest.mark.parametrize("how", ["end", "pipe"])
@pytest.mark.parametrize("skip", [0, 1, 5, "last"])
async def test_the_connection_dies_with_a_page_in_hand(
    service: Service, client: SentinelClient, how: Any, skip: Any
) -> None:
    """It dies between a reply and the next SCAN: the page is handed out, and the cursor goes on."""
    whole = await sweep(client, count=COUNT)
    number = whole.summary.scans - 1 if skip == "last" else skip
    service.master.log.clear()
    service.master.tap("SCAN", skip=number, after=lambda: service.master.drop_clients(how))
    swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert sum(map(len, swept.pages)) == sum(map(len, whole.pages))  # none twice, either
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 1)
    sent = cursors(service)
    assert sorted(set(sent), key=sent.index) == sent  # each cursor went to the process once


async def test_a_connection_that_died_is_closed_though_the_loop_is_slow(
    service: Service, client: SentinelClient
) -> None:
    """And the next one is not made before it is of use."""
    async with client.open_scan(count=COUNT, prefetch=0) as pages:
        await pages.receive()
        await settled()
        service.master.drop_clients("pipe")
        await pages.receive()
        await trio.sleep(60)
        assert len(service.master.wires) == 2
        assert [wire for wire in service.master.wires[1:] if not wire.client_end.closed] == []
        async for _ in pages:
            pass
    assert pages.summary.reconnects == 1


@pytest.mark.parametrize("instead", [HANG_UP, Cut(1), Cut(10), Cut(100), SILENCE])
async def test_a_reply_that_does_not_come_whole_is_asked_for_again(
    service: Service, client: SentinelClient, instead: Any
) -> None:
    """Only whole replies become pages. The process is the same, so its cursor is good."""
    service.master.tap("SCAN", skip=4, instead=instead)
    swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert sum(map(len, swept.pages)) == KEYS
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 1)
    sent = cursors(service)
    assert len(sent) == len(set(sent)) + 1


async def test_another_process_at_the_same_address_is_a_new_epoch(service: Service, client: SentinelClient) -> None:
    """No Sentinel says a word."""
    service.master.tap("SCAN", skip=8, before=service.master.restart)
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    [restart] = swept.summary.restarts
    assert restart.reason == "another process answers at this address: the server was restarted"
    assert restart.old_server is not None
    assert restart.new_server is not None
    assert restart.old_server.address == restart.new_server.address
    assert restart.old_server.run_id != restart.new_server.run_id


async def test_a_server_that_does_not_tell_who_it_is(service: Service, client: SentinelClient) -> None:
    """Each new connection may be to another process: a new epoch."""
    for server in service.servers:
        server.program.users["default"].forbidden = frozenset({"INFO", "ROLE"})
    service.master.tap("SCAN", skip=8, after=service.master.drop_clients)
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1
    assert swept.summary.restarts[0].reason == "a new connection, and the server does not tell which process it is"


async def test_connections_that_bring_nothing_are_not_made_for_ever(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=2, times=float("inf"), instead=HANG_UP)
    with pytest.raises(ScanRestartsExhausted, match="max_restarts=10"):
        await sweep(client, count=COUNT)
    assert len(service.master.wires) < 20
    assert trio.current_time() < 10


async def test_one_lost_connection_is_no_restart(service: Service, client: SentinelClient) -> None:
    """It is allowed where no restart is."""
    service.master.tap("SCAN", skip=2, after=service.master.drop_clients)
    swept = await sweep(client, count=COUNT, max_restarts=0, on_failover="raise")
    assert swept.keys == service.keys()


# ---- what the server answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["LOADING Redis is loading", "BUSY Redis is busy running a script"])
async def test_a_server_that_asks_for_patience_is_given_it(
    service: Service, client: SentinelClient, error: str
) -> None:
    service.master.tap("SCAN", skip=3, times=5, instead=Reply(Error(error)))
    swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert (swept.summary.epoch, swept.summary.reconnects) == (0, 0)
    assert len(service.master.wires) == 2


async def test_a_server_that_goes_on_loading(service: Service) -> None:
    async with SentinelClient(service.addresses, "mymaster", failover_timeout=20) as client:
        service.master.program.loading = True
        with pytest.raises(ServerUnavailable, match="answers LOADING"):
            await sweep(client)
        assert 20 <= trio.current_time() < 25


async def test_a_cursor_that_the_server_does_not_know(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=3, instead=Reply(Error("ERR invalid cursor")))
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.restarts[0].reason == "the server does not know its cursor"


async def test_a_user_who_may_not_scan(service: Service, client: SentinelClient) -> None:
    for server in service.servers:
        server.program.users["default"] = User(forbidden=frozenset({"SCAN"}))
    with pytest.raises(ScanRefused, match="refuses SCAN") as caught:
        await sweep(client)
    assert caught.value.summary is not None
    assert isinstance(caught.value, redis_errors.ResponseError)
    assert trio.current_time() == 0


async def test_a_password_that_changes_in_mid_scan(service: Service, client: SentinelClient) -> None:
    def change() -> None:
        service.master.program.users["default"] = User("another")
        service.master.drop_clients()

    service.master.tap("SCAN", skip=3, after=change)
    with pytest.raises(AuthenticationFailed):
        await sweep(client, count=COUNT)
    assert trio.current_time() < 1


async def test_a_user_who_is_logged_out_in_mid_scan(service: Service, client: SentinelClient) -> None:
    service.master.tap("SCAN", skip=3, instead=Reply(Error("NOAUTH Authentication required.")))
    with pytest.raises(AuthenticationFailed, match="refuses SCAN"):
        await sweep(client, count=COUNT)


NONSENSE: dict[str, Any] = {
    "no RESP": Raw(b"?\r\n"),
    "an absurd length": Raw(b"*999999999\r\n"),
    "an absurd string": Raw(b"*2\r\n$999999999\r\n"),
    "too deep": Raw(b"*2\r\n" * 1000),
    "a number": Reply(7),
    "nothing": Reply(None),
    "a string": Reply("0"),
    "an empty list": Reply([]),
    "a list of three": Reply(["0", [], []]),
    "a cursor in letters": Reply(["x", []]),
    "a cursor below 0": Reply(["-1", []]),
    "a cursor too large": Reply([str(2**64), []]),
    "no cursor": Reply([None, []]),
    "keys that are none": Reply(["0", 7]),
    "keys in a string": Reply(["0", "key"]),
    "keys in lists": Reply(["0", [["key"]]]),
    "keys that are numbers": Reply(["0", [7]]),
    "keys that are nothing": Reply(["0", [None]]),
}


@pytest.mark.parametrize("instead", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_reply_that_is_no_page_of_keys(
    service: Service, client: SentinelClient, network: Network, instead: Any
) -> None:
    """A protocol error at once, and the connection is closed."""
    service.master.tap("SCAN", skip=3, instead=instead)
    async with client.open_scan(count=COUNT, segments=1) as pages:
        with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:6379"):
            async for page in pages:
                assert all(type(key) is bytes for key in page)
        await settled()
        assert len(service.master.open_wires) == 1
    assert not pages.summary.complete


async def test_a_server_that_turns_connections_away_for_a_while(service: Service, client: SentinelClient) -> None:
    def full() -> None:
        service.master.turns_away = b"-ERR max number of clients reached\r\n"
        service.master.drop_clients()

    service.master.tap("SCAN", skip=3, after=full)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(10)
            service.master.turns_away = None

        swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert swept.summary.epoch == 0
    assert 10 <= trio.current_time() < 12
    assert len(service.master.wires) < 40  # it backs off


async def test_keys_that_cannot_be_decoded(network: Network) -> None:
    service = Service(network, keys=10)
    service.write([b"\xff"])
    async with RedisClient(service.master.address, decode_responses=True) as client:
        with pytest.raises(ScanError, match="encoding_errors=") as caught:
            await sweep(client)
        assert "\\xff" not in repr(caught.value)
    async with RedisClient(service.master.address, decode_responses=True, encoding_errors="surrogateescape") as client:
        assert "\udcff" in (await sweep(client)).keys


# ---- other products ---------------------------------------------------------------------------------------------


async def test_a_product_whose_cursors_are_its_own(network: Network) -> None:
    service = Service(network, keys=KEYS, sentinels=0)
    service.master.program.more_info = {"dragonfly_version": "df-1.0"}
    async with RedisClient(service.master.address) as client:
        swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert {page.position for page in swept.pages[:-1]} == {None}
    assert repr(swept.pages[0]).split(", ")[2] == "position unknown"


async def test_cursors_that_go_in_a_circle(network: Network) -> None:
    service = Service(network, keys=KEYS, sentinels=0)
    service.master.program.more_info = {"dragonfly_version": "df-1.0"}
    replies = iter(["1", "2", "3"] * 100)

    def answer() -> None:
        service.master.tap("SCAN", before=answer, instead=Reply([next(replies), ["k"]]))

    answer()
    async with RedisClient(service.master.address) as client:
        with pytest.raises(ScanStuck, match="come round again"):
            await sweep(client)
    assert len(service.master.commands("SCAN")) < 20


async def test_cursors_that_do_not_rise_are_not_trusted(service: Service, client: SentinelClient) -> None:
    """The format is not the one that it was taken for: one restart, without positions."""
    service.master.tap("SCAN", skip=5, instead=Reply(["1", ["k"]]))  # a cursor of before
    service.master.tap("SCAN", skip=5, instead=Reply([str(2**63), ["k"]]))
    swept = await sweep(client, count=COUNT)
    assert swept.last_epoch - {b"k"} == service.keys()
    assert len(swept.summary.restarts) == 1
    assert "do not rise" in swept.summary.restarts[0].reason


# ---- replicas and single servers --------------------------------------------------------------------------------


async def test_a_replica_is_scanned_on_request(service: Service) -> None:
    async with RedisClient(service.replicas[0].address) as client:
        swept = await sweep(client, count=COUNT)
    assert swept.keys == service.keys()
    assert swept.summary.certificate is not None
    assert (swept.summary.certificate.basis, swept.summary.certificate.role) == ("server", "slave")
    assert str(swept.summary.certificate).endswith("says slave; there are no Sentinels to ask")


async def test_a_replica_that_is_not_in_sync_is_waited_for(service: Service) -> None:
    """It would answer with an empty keyspace, and no error."""
    replica = service.replicas[0]
    replica.program.empty()
    replica.program.link = "sync"
    async with RedisClient(replica.address) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await trio.sleep(10)
            replica.program.copy_from(service.master.program)
            replica.program.link = "connected"

        assert (await sweep(client)).keys == service.keys()
    assert trio.current_time() > 10


async def test_a_replica_that_loses_its_master_is_not_certified(service: Service) -> None:
    replica = service.replicas[0]
    async with RedisClient(replica.address, failover_timeout=5) as client:
        replica.tap("SCAN", skip=3, after=lambda: setattr(replica.program, "link", "connect"))
        with pytest.raises(ServerUnavailable, match="not in sync"):
            await sweep(client, count=COUNT)


async def test_a_single_server_that_is_promoted_is_another(service: Service) -> None:
    """Its role is not what it was when the pass began."""
    replica = service.replicas[0]
    async with RedisClient(replica.address) as client:
        replica.tap("SCAN", skip=3, after=lambda: setattr(replica.program, "master", None))
        swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.restarts[0].reason == "the server's role is master, it was slave"


async def test_a_single_server_that_restarts(service: Service) -> None:
    server = service.master
    async with RedisClient(server.address) as client:
        server.tap("SCAN", skip=8, before=server.restart)
        swept = await sweep(client, count=COUNT)
    assert swept.last_epoch == service.keys()
    assert swept.summary.epoch == 1


async def test_a_single_server_that_hangs_is_left_after_response_timeout(service: Service) -> None:
    server = service.master
    async with RedisClient(server.address, response_timeout=3) as client:
        server.tap("SCAN", skip=3, instead=SILENCE)
        swept = await sweep(client, count=COUNT)
        assert swept.summary.epoch == 0
        assert trio.current_time() == 3
        assert swept.keys == service.keys()


async def test_a_server_that_stays_away(service: Service) -> None:
    async with RedisClient(service.master.address, failover_timeout=30) as client:
        service.master.tap("SCAN", skip=3, before=service.master.kill)
        async with client.open_scan(count=COUNT) as pages:
            with pytest.raises(ServerUnavailable, match="no server to scan on for 30 s") as caught:
                async for _ in pages:
                    pass
            assert "Connection refused" in str(caught.value)
    assert 30 <= trio.current_time() < 31
    assert len(network_attempts(service)) < 100  # it backs off, and does not spin


def network_attempts(service: Service) -> list[Any]:
    return [dialled for dialled, _ in service.network.dialled if dialled == service.master.address]
