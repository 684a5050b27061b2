"""What a client asks the nodes of a cluster about it: the survey that scans rest on, and the lines it goes over."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio

from tests.trio.fakes import (
    SILENCE,
    ClusterServer,
    Error,
    FakeCluster,
    Hold,
    Host,
    Network,
    Reply,
    User,
    on_mock_time,
    settled,
)
from trio_sentinel_scan import AuthenticationFailed, ClusterClient, ClusterNotFound, ConfigError
from trio_sentinel_scan._core.cluster_survey import Survey
from trio_sentinel_scan._trio.cluster_monitor import ClusterMonitor

pytestmark = pytest.mark.trio(run=on_mock_time)


@pytest.fixture
def cluster(network: Network) -> FakeCluster:
    return FakeCluster(network)


@pytest.fixture
async def monitor(cluster: FakeCluster) -> AsyncGenerator[ClusterMonitor]:
    async with ClusterClient(cluster.addresses) as client:
        yield client._monitor


def id_of(host: Host[ClusterServer]) -> str:
    return host.program.node_id


def add_master(network: Network, cluster: FakeCluster) -> Host[ClusterServer]:
    """One without slots: it is in no map."""
    host = network.add(ClusterServer(("10.0.0.1", 7003), cluster))
    cluster.hosts.append(host)
    return host


# ---- who is asked ------------------------------------------------------------------------------------------------


async def test_all_masters_are_asked(network: Network, cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """Also one without slots, which only the others know of."""
    new = add_master(network, cluster)
    cluster.migrating[7] = new.address
    survey = await monitor.survey()
    assert set(survey.accounts) == {id_of(host) for host in cluster.hosts}
    assert survey.silent == {}
    assert survey.accounts[id_of(new)].importing == {7: id_of(cluster.hosts[0])}
    assert survey.accounts[id_of(cluster.hosts[0])].migrating == {7: id_of(new)}


async def test_a_master_that_does_not_answer(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """It is named, with the reason; the others count; and the map is asked for, for it may be elsewhere."""
    one = cluster.hosts[0]
    await monitor.survey()
    one.hang()
    refreshes = monitor.refreshes
    survey = await monitor.survey()
    assert set(survey.accounts) == {id_of(host) for host in cluster.hosts[1:]}
    assert "did not answer within 2 s" in survey.silent[id_of(one)]
    await trio.sleep(1)
    assert monitor.refreshes > refreshes
    one.resume()
    assert (await monitor.survey()).silent == {}


async def test_a_master_is_where_the_others_say(
    network: Network, cluster: FakeCluster, monitor: ClusterMonitor
) -> None:
    """It has another address than the map has it."""
    one = cluster.hosts[0]
    old = one.address
    del network.hosts[old]
    one.drop_clients()
    one.program.address = ("10.0.0.9", 7000)
    network.hosts[one.address] = one
    cluster.owner = [one.address if owner == old else owner for owner in cluster.owner]
    survey = await monitor.survey()
    assert set(survey.accounts) == {id_of(host) for host in cluster.hosts}
    assert survey.silent == {}


@pytest.mark.parametrize(
    "reply, said",
    [
        (Error("NOPERM no permissions to run 'cluster|nodes'"), "does not tell of the cluster's nodes"),
        (Error("LOADING Redis is loading the dataset in memory"), "cannot answer now"),
        (Error("NOAUTH Authentication required."), "refuses to answer"),
        (Error("ERR This instance has cluster support disabled"), "no node of a cluster"),
        (b"nonsense", "makes no sense"),
        (None, "makes no sense"),
        (7, "makes no sense"),
        (b"", "does not say which of them has answered"),
    ],
    ids=["forbidden", "loading", "not logged in", "no cluster", "text", "null", "number", "nothing"],
)
async def test_what_is_no_answer(cluster: FakeCluster, monitor: ClusterMonitor, reply: object, said: str) -> None:
    """It counts as none, whatever it is."""
    one = cluster.hosts[0]
    one.tap("CLUSTER NODES", instead=Reply(reply))
    survey = await monitor.survey()
    assert set(survey.accounts) == {id_of(host) for host in cluster.hosts[1:]}
    assert said in survey.silent[id_of(one)]


async def test_cluster_info_may_be_forbidden(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """Then the state is not known."""
    for host in cluster.hosts:
        host.tap("CLUSTER INFO", times=9, instead=Reply(Error("NOPERM no permissions")))
    survey = await monitor.survey()
    assert {account.state for account in survey.accounts.values()} == {""}


# ---- shared, and never old ---------------------------------------------------------------------------------------


async def test_nobody_is_told_what_was_said_before(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """Who calls while others are asked gets the next answers, and shares them; the clock does not tell (it stands)."""
    goes_on = trio.Event()
    cluster.hosts[0].tap("CLUSTER NODES", instead=Hold(goes_on))
    found: dict[str, Survey] = {}

    async def ask(name: str) -> None:
        found[name] = await monitor.survey()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "early")
        await settled()
        cluster.migrating[7] = cluster.hosts[2].address
        nursery.start_soon(ask, "late")
        nursery.start_soon(ask, "later")
        await settled()
        goes_on.set()
    assert found["early"].accounts[id_of(cluster.hosts[0])].migrating == {}
    assert found["late"].accounts[id_of(cluster.hosts[0])].migrating == {7: id_of(cluster.hosts[2])}
    assert found["late"] is found["later"]
    assert found["late"].began_at == found["early"].began_at
    again = await monitor.survey()
    assert again is not found["late"]


async def test_who_asks_is_cancelled(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """The next one is asked anew, over a line that owes nothing."""
    one = cluster.hosts[0]
    one.tap("CLUSTER NODES", instead=SILENCE)
    with trio.move_on_after(1) as scope:
        await monitor.survey()
    assert scope.cancelled_caught
    assert not monitor._surveying.locked()
    assert (await monitor.survey()).silent == {}


# ---- the lines ---------------------------------------------------------------------------------------------------


async def test_a_line_is_kept_and_replaced(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """One that is broken, or has something in it that nobody asked for, is not used again."""
    one = cluster.hosts[0]
    await monitor.survey()
    wires = len(one.wires)
    await monitor.survey()
    assert len(one.wires) == wires
    one.drop_clients()
    assert (await monitor.survey()).silent == {}
    (wire,) = one.open_wires
    wire.write(b"+what nobody asked for\r\n")
    assert (await monitor.survey()).silent == {}
    assert len(one.open_wires) == 1


@pytest.mark.parametrize("held", ["CLUSTER NODES", "HELLO"])
async def test_a_line_in_use_is_not_hung_up_on(
    network: Network, cluster: FakeCluster, monitor: ClusterMonitor, held: str
) -> None:
    """By a refresh of the map, which does not know a master without slots; nor is one lost that is being opened."""
    new = add_master(network, cluster)
    goes_on = trio.Event()
    new.tap(held, instead=Hold(goes_on))
    found: list[Survey] = []

    async def ask() -> None:
        found.append(await monitor.survey())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await settled()
        await monitor.refreshed()
        goes_on.set()
    assert found[0].silent == {}
    await monitor.refreshed()
    assert new.open_wires == []


# ---- the first map -----------------------------------------------------------------------------------------------


async def test_it_is_no_cluster(cluster: FakeCluster) -> None:
    for host in cluster.hosts:
        host.tap("CLUSTER SHARDS", times=9, instead=Reply(Error("ERR This instance has cluster support disabled")))
    with pytest.raises(ConfigError, match="no node of a cluster"):
        async with ClusterClient(cluster.addresses):
            raise AssertionError


async def test_the_password_is_wrong(cluster: FakeCluster) -> None:
    for host in cluster.hosts:
        host.program.users = {"default": User("secret")}
    with pytest.raises(AuthenticationFailed):
        async with ClusterClient(cluster.addresses, password="wrong"):
            raise AssertionError


async def test_nobody_is_there(cluster: FakeCluster) -> None:
    for host in cluster.hosts:
        host.kill()
    with pytest.raises(ClusterNotFound) as caught:
        async with ClusterClient(cluster.addresses):
            raise AssertionError
    assert "10.0.0.1:7002" in str(caught.value)


async def test_the_answer_of_the_latest_epoch_counts(cluster: FakeCluster, monitor: ClusterMonitor) -> None:
    """A node that is behind is not believed, and the next one is asked."""
    cluster.move(0, cluster.hosts[2])
    await monitor.refreshed()
    epoch = monitor.views.epoch
    for host in cluster.hosts[:2]:
        host.tap("CLUSTER INFO", times=9, instead=Reply(b"cluster_state:ok\r\ncluster_current_epoch:1\r\n"))
    await monitor.refreshed()
    assert monitor.views.epoch == epoch
    owner = monitor.map.owner(0)
    assert owner is not None
    assert owner.node_id == id_of(cluster.hosts[2])
