"""A scan through a proxy: a SCAN over several nodes, whose cursors are the proxy's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import pytest
import trio

from tests.trio.fakes import COUNT, SERVICE, Host, Network, ScanProxy, Service, on_mock_time, sweep
from trio_sentinel_scan import (
    ConfigError,
    RedisClient,
    ScanInterrupted,
    ScanRefused,
    ScanRestartsExhausted,
    ScanStuck,
    SentinelClient,
)
from trio_sentinel_scan._core.cursor import CircleDetector
from trio_sentinel_scan._core.other_products import as_believed
from trio_sentinel_scan._core.scan_replies import ROLE_REQUEST

pytestmark = pytest.mark.trio(run=on_mock_time)

KEYS = [b"key:%d" % number for number in range(600)]
NODE = ("node-2",)
# For a scan of all nodes through a proxy, whose SCAN wants no word at its end: it looks like a server.
UNDECLARED: dict[str, Any] = {"count": COUNT}
DECLARED: dict[str, Any] = {"count": COUNT, "extra_args": NODE}


@pytest.fixture
def proxy(network: Network) -> Host[ScanProxy]:
    host = network.add(ScanProxy(("10.9.9.9", 6379), Random(1)))
    host.program.write(*KEYS)
    return host


@pytest.fixture
async def client(proxy: Host[ScanProxy]) -> AsyncGenerator[RedisClient]:
    async with RedisClient(proxy.address) as client:
        yield client


def cursors(proxy: Host[ScanProxy]) -> list[int]:
    return [int(words[1]) for words in proxy.commands("SCAN")]


# ---- one node, by its id -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
async def test_one_node_is_scanned(proxy: Host[ScanProxy], client: RedisClient, tells: bool) -> None:
    """Its id stands at the end of each SCAN. INFO and ROLE are any node's, or nobody's."""
    proxy.program.tells = tells
    swept = await sweep(client, match="key:*", **DECLARED)
    assert swept.keys == proxy.program.keys(1)
    assert swept.summary.complete
    assert (swept.summary.epoch, swept.summary.segments) == (0, 1)
    assert {page.position for page in swept.pages[:-1]} == {None}
    assert {page.server.run_id for page in swept.pages} == {None}
    assert {words[-1] for words in proxy.commands("SCAN")} == {b"node-2"}
    assert {words[-3] for words in proxy.commands("SCAN")} == {b"COUNT"}
    assert swept.summary.certificate is not None
    assert swept.summary.certificate.basis == "proxy"


async def test_nodes_that_are_replicas_are_no_reason_against_it(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """Whose ROLE it is that comes, nobody knows; so it is not asked for along the way, nor believed at the end."""
    for node in proxy.program.nodes[1:]:
        node.master, node.link = ("10.9.0.1", 6379), "connect"
    async with client.open_scan(**DECLARED) as pages:
        found: set[bytes] = set()
        async for page in pages:
            found.update(page)
            await trio.sleep(1)
    assert found == proxy.program.keys(1)
    assert pages.summary.epoch == 0
    assert ROLE_REQUEST not in b"".join(words[0] for words in proxy.commands("SCAN"))


async def test_a_node_that_the_proxy_does_not_know(client: RedisClient) -> None:
    with pytest.raises(ScanRefused, match="invalid node id"):
        await sweep(client, extra_args=["nobody"])


@pytest.mark.parametrize("options", [{**DECLARED, "count": 2}, UNDECLARED], ids=["declared", "undeclared"])
async def test_a_new_connection_is_a_new_epoch(
    proxy: Host[ScanProxy], client: RedisClient, options: dict[str, Any]
) -> None:
    """Nothing tells whether the node is still the process that issued the cursor."""
    proxy.tap("SCAN", skip=25, after=proxy.drop_clients)
    swept = await sweep(client, **options)
    assert swept.last_epoch == (proxy.program.keys(1) if "extra_args" in options else set(KEYS))
    assert "does not tell which process it is" in swept.summary.restarts[-1].reason
    assert swept.summary.reconnects == 0


async def test_the_node_is_restarted_while_the_connection_is_lost(
    proxy: Host[ScanProxy], client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard: without it, INFO of a node that was not restarted vouches for the cursor of one that was."""
    nodes = proxy.program.nodes

    def lose() -> None:
        proxy.program.restart_node(1)
        proxy.drop_clients()

    for guarded in (True, False):
        if not guarded:
            # INFO is always the first node's, and is believed.
            monkeypatch.setattr("trio_sentinel_scan._core.scan_plan.as_believed", lambda found, *_, **__: found)
            monkeypatch.setattr(proxy.program._rng, "choice", lambda choices: nodes[0])
        proxy.tap("SCAN", skip=5, after=lose)
        swept = await sweep(client, **DECLARED)
        assert swept.summary.complete
        missing = proxy.program.keys(1) - swept.last_epoch
        assert bool(missing) is not guarded
        assert swept.summary.epoch == int(guarded)
    assert as_believed.__module__.endswith("other_products")


async def test_a_new_connection_interrupts_where_restarts_are_forbidden(
    proxy: Host[ScanProxy], client: RedisClient
) -> None:
    proxy.tap("SCAN", skip=4, after=proxy.drop_clients)
    with pytest.raises(ScanInterrupted):
        await sweep(client, on_failover="raise", **DECLARED)


# ---- all nodes, by cursors of the proxy's own ----------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["auto", 1])
async def test_all_nodes_are_scanned(proxy: Host[ScanProxy], client: RedisClient, segments: Any) -> None:
    """It passes for a Redis by a node's INFO, until its cursors show that they are of another kind: a new epoch."""
    swept = await sweep(client, segments=segments, **UNDECLARED)
    assert swept.last_epoch == set(KEYS)
    assert swept.summary.complete
    assert swept.summary.epoch == 1
    assert (swept.summary.segments, swept.summary.reconnects) == (1, 0)
    assert {page.position for page in swept.pages if page.epoch == 1} <= {None, 1.0}


async def test_all_nodes_of_a_proxy_that_tells_nothing(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """Then nothing is assumed from the beginning."""
    proxy.program.tells = False
    swept = await sweep(client, **UNDECLARED)
    assert swept.keys == set(KEYS)
    assert sum(map(len, swept.pages)) == len(KEYS)
    assert swept.summary.epoch == 0


async def test_a_cluster_that_is_made_smaller(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """The cursor names a node that is gone: the proxy says so, and the scan begins again."""
    proxy.program.tells = False

    def shrink() -> None:
        proxy.program.remove_node()

    async with client.open_scan(prefetch=0, **UNDECLARED) as pages:
        found: dict[int, set[bytes]] = {}
        async for page in pages:
            found.setdefault(page.epoch, set()).update(page)
            if max(cursors(proxy)) >> 48 == 2 and len(proxy.program.nodes) == 3:
                shrink()
    assert found[1] == set(KEYS)
    assert [restart.reason for restart in pages.summary.restarts] == ["the server does not know its cursor"]


@pytest.mark.parametrize("max_restarts", [0, 3])
async def test_a_cursor_that_is_never_known_spends_the_budget(
    proxy: Host[ScanProxy], client: RedisClient, max_restarts: int
) -> None:
    """It is made larger and smaller all the time."""
    proxy.program.tells = False
    nodes = list(proxy.program.nodes)

    def shrink() -> None:
        proxy.program.nodes = nodes[:1]
        proxy.tap("SCAN", before=grow, after=again)

    def grow() -> None:
        if int(proxy.commands("SCAN")[-1][1]) == 0:
            proxy.program.nodes = nodes

    def again() -> None:
        proxy.tap("SCAN", skip=11, before=shrink)

    again()
    with pytest.raises(ScanRestartsExhausted, match=f"max_restarts={max_restarts}") as caught:
        await sweep(client, max_restarts=max_restarts, **UNDECLARED)
    assert caught.value.summary is not None
    assert caught.value.summary.epoch == max_restarts
    assert len(proxy.wires) < 3 + max_restarts


async def test_cursor_0_refused_is_final(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """There is nothing to begin again from."""
    proxy.program.nodes = []
    proxy.program.tells = False
    with pytest.raises(ScanRefused, match="invalid cursor"):
        await sweep(client, **UNDECLARED)
    assert len(proxy.commands("SCAN")) == 1


@pytest.mark.parametrize("length", [1, 2, 3, 100, 1000])
@pytest.mark.parametrize("after", [0, 5, 17])
async def test_cursors_that_go_in_a_circle(
    proxy: Host[ScanProxy], client: RedisClient, length: int, after: int
) -> None:
    """Found within three times as many SCANs as there are different cursors, and in constant memory."""
    proxy.program.tells = False
    proxy.program.circles_after, proxy.program.circle_length = after, length
    with pytest.raises(ScanStuck, match="come round again"):
        await sweep(client, **UNDECLARED)
    assert len(proxy.commands("SCAN")) <= 3 * (after + length) + 3
    assert not hasattr(CircleDetector(), "__dict__")  # a landmark and two numbers are all there is


async def test_a_circle_of_what_passes_for_a_redis(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """First its cursors are not trusted any more, then the circle is found."""
    proxy.program.circles_after = 0
    with pytest.raises(ScanStuck, match="come round again") as caught:
        await sweep(client, **UNDECLARED)
    assert caught.value.summary is not None
    assert caught.value.summary.epoch == 1


# ---- what cannot be ------------------------------------------------------------------------------------------------


async def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    proxy: Host[ScanProxy], client: RedisClient, network: Network
) -> None:
    """By the argument's name."""
    sent = len(proxy.log)
    bad: list[tuple[str, dict[str, Any]]] = [
        ("extra_args", {"extra_args": "node-2"}),
        ("segments", {"extra_args": NODE, "segments": 4}),
        ("hash_seed_shared", {"extra_args": NODE, "hash_seed_shared": True}),
        ("hash_seed_shared", {"hash_seed_shared": "yes"}),
    ]
    for argument, options in bad:
        with pytest.raises(ConfigError) as caught:
            client.open_scan(**options)
        assert caught.value.argument == argument
    service = Service(network)
    async with SentinelClient(service.addresses, SERVICE) as watched:
        with pytest.raises(ConfigError, match="use RedisClient"):
            watched.open_scan(extra_args=NODE)
    assert len(proxy.log) == sent


# ---- what no client can see ----------------------------------------------------------------------------------------


async def test_a_node_that_is_restarted_behind_the_proxy(proxy: Host[ScanProxy], client: RedisClient) -> None:
    """The connection is the proxy's and stays; the node's cursor means nothing to its next process, and nobody says so.

    This is what `docs/guarantees.md` says that no client can promise through a proxy. If it ever fails, mend the page.
    """
    proxy.tap("SCAN", skip=5, after=lambda: proxy.program.restart_node(1))
    swept = await sweep(client, **DECLARED)
    assert swept.summary.complete
    assert swept.summary.epoch == 0
    assert proxy.program.keys(1) - swept.keys
