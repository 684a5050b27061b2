"""Watching Sentinels: an event makes us ask, answers make the view, and no Sentinel keeps the others waiting."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.trio.fakes import (
    HANG_UP,
    SILENCE,
    Error,
    Hold,
    Network,
    Raw,
    Reply,
    Service,
    on_mock_time,
    settled,
    tasks_below,
)
from tests.trio.watching import askings, names, until, watching
from trio_sentinel_scan import Address, MasterNotFound, NoSentinelReachable, ServiceUnknown
from trio_sentinel_scan._core.config import Credentials
from trio_sentinel_scan._core.scan_steps import Target
from trio_sentinel_scan._core.topology import REGRESSION_HOLD
from trio_sentinel_scan._trio.sentinel import PATIENCE, POLL_PERIOD

pytestmark = pytest.mark.trio(run=on_mock_time)


# ---- the first view ---------------------------------------------------------------------------------------------


async def test_the_master_is_found_at_once(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        assert await monitor.first_target() == Target(Address("10.0.0.1", 6379), 0, version=1)
        assert trio.current_time() == 0
        assert monitor.describe() == dict.fromkeys(
            ["10.0.1.1:26379", "10.0.1.2:26379", "10.0.1.3:26379"], "names 10.0.0.1:6379 (config epoch 0)"
        ) or set(monitor.describe().values()) == {"names 10.0.0.1:6379 (config epoch 0)", "not asked yet"}
        await settled()
        assert set(monitor.describe().values()) == {"names 10.0.0.1:6379 (config epoch 0)"}


async def test_it_subscribes_first_and_then_asks(network: Network) -> None:
    """So that whatever changes between the two is heard."""
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
    for host in service.sentinels:
        asked = [words[:2] for _, words in host.log]
        first_question = asked.index([b"SENTINEL", b"MASTER"])
        subscriptions = [place for place, words in enumerate(asked) if words[0] == b"SUBSCRIBE"]
        assert [b"SUBSCRIBE", b"+switch-master"] in asked
        assert max(subscriptions) < first_question


async def test_address_and_epoch_are_read_together(network: Network) -> None:
    """In mid-failover the leader's SENTINEL MASTER shows the old address under the new epoch."""
    service = Service(network, sentinels=1)
    known = service.sentinels[0].program.services[service.name]
    known.master, known.shown, known.config_epoch = ("10.0.0.2", 6379), ("10.0.0.1", 6379), 1
    async with watching(service) as monitor:
        await monitor.first_target()
        assert names(monitor) == ("10.0.0.2", 6379, 1)


async def test_an_epoch_that_moves_while_it_is_asked_makes_it_ask_again(network: Network) -> None:
    service = Service(network, sentinels=1)
    [host] = service.sentinels

    def move() -> None:
        service.fail_over(tell=False)
        service.tell(quietly=True)

    host.tap("SENTINEL GET-MASTER-ADDR-BY-NAME", after=move)
    async with watching(service) as monitor:
        await monitor.first_target()
        assert names(monitor) == ("10.0.0.2", 6379, 1)
        assert (askings(host), trio.current_time()) == (2, 0)


async def test_a_service_that_goes_while_it_is_asked(network: Network) -> None:
    service = Service(network, sentinels=1)
    [host] = service.sentinels
    host.tap("SENTINEL GET-MASTER-ADDR-BY-NAME", after=host.program.services.clear)
    async with watching(service) as monitor:
        with pytest.raises(ServiceUnknown):
            await monitor.first_target()


async def test_a_sentinel_whose_answers_never_fit_together_is_not_asked_without_end(network: Network) -> None:
    service = Service(network, sentinels=1)
    [host] = service.sentinels
    host.tap("SENTINEL MASTER", times=float("inf"), instead=Reply(Error("ERR No such master with that name")))
    async with watching(service) as monitor:
        with trio.fail_after(10), pytest.raises(MasterNotFound):
            await monitor.first_target()


async def test_the_newest_epoch_wins_though_most_name_an_older_one(network: Network) -> None:
    """A Sentinel's word is as new as its epoch, whoever says it."""
    service = Service(network)
    service.fail_over(tell=False)
    service.tell(service.sentinels[2], quietly=True)
    for host in service.sentinels[:2]:
        host.delay = 0.01
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        assert names(monitor) == ("10.0.0.2", 6379, 1)


@pytest.mark.parametrize("trouble", ["hang", "vanish", "kill"])
async def test_a_sentinel_in_trouble_does_not_delay_the_others(network: Network, trouble: str) -> None:
    service = Service(network)
    getattr(service.sentinels[0], trouble)()
    async with watching(service) as monitor:
        await monitor.first_target()
        assert trio.current_time() == 0
        await trio.sleep(PATIENCE)
        await settled()
        assert "names" not in monitor.describe()["10.0.1.1:26379"]
        assert list(monitor.describe().values()).count("names 10.0.0.1:6379 (config epoch 0)") == 2


async def test_one_in_three_is_enough_to_begin_with_after_a_while(network: Network) -> None:
    service = Service(network)
    service.sentinels[0].hang()
    service.sentinels[1].hang()
    async with watching(service) as monitor:
        await monitor.first_target()
        assert 0 < trio.current_time() <= 1


# ---- no view ----------------------------------------------------------------------------------------------------


async def test_no_sentinel_answers(network: Network) -> None:
    service = Service(network)
    service.sentinels[0].kill()
    service.sentinels[1].hang()
    service.sentinels[2].program.password = "secret"
    async with watching(service) as monitor:
        with pytest.raises(NoSentinelReachable) as caught:
            await monitor.first_target()
    assert trio.current_time() == PATIENCE
    assert caught.value.sentinels == {
        "10.0.1.1:26379": "cannot be reached: Connection refused",
        "10.0.1.2:26379": "did not answer within 2 s (response_timeout)",
        "10.0.1.3:26379": "refuses to answer: Authentication required.",
    }
    assert str(caught.value).count("\n") == 3


async def test_no_sentinel_knows_the_service(network: Network) -> None:
    service = Service(network)
    service.sentinels[0].kill()
    async with watching(service, name="another") as monitor:
        with pytest.raises(ServiceUnknown, match="no Sentinel knows a service named 'another'") as caught:
            await monitor.first_target()
    assert caught.value.sentinels["10.0.1.2:26379"] == "does not know the service 'another'"


async def test_one_sentinel_that_does_not_know_the_service_is_outvoted(network: Network) -> None:
    service = Service(network)
    service.sentinels[0].program.services.clear()
    async with watching(service) as monitor:
        await monitor.first_target()
        assert names(monitor) == ("10.0.0.1", 6379, 0)


async def test_the_sentinels_have_a_password_of_their_own(network: Network) -> None:
    service = Service(network)
    for host in service.sentinels:
        host.program.password = "secret"
    async with watching(service, credentials=Credentials(None, "secret")) as monitor:
        await monitor.first_target()
    async with watching(service, credentials=Credentials(None, "wrong")) as monitor:
        with pytest.raises(NoSentinelReachable, match="refused the username or password") as caught:
            await monitor.first_target()
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


# ---- a change ---------------------------------------------------------------------------------------------------


async def test_an_event_makes_it_ask_at_once(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        calls: list[tuple[str, int, int | None]] = []
        monitor.on_change.add(lambda: calls.append(names(monitor)))
        await trio.sleep(0.3)
        service.fail_over()
        assert await until(lambda: bool(calls), within=1) == 0
        await settled()
        assert calls == [("10.0.0.2", 6379, 1)]  # once, though three Sentinels said so


@pytest.mark.parametrize(
    "channel, payload",
    [
        ("+promoted-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379"),
        ("+reboot", "master mymaster 10.0.0.1 6379"),
        ("+config-update-from", "sentinel abc 10.0.1.2 26379 @ mymaster 10.0.0.1 6379"),
    ],
)
async def test_other_events_make_it_look_too(network: Network, channel: str, payload: str) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        service.fail_over(tell=False)
        service.tell(quietly=True)
        service.sentinels[1].program.publish(channel, payload)
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0


async def test_events_of_other_services_are_of_no_interest(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        await trio.sleep(POLL_PERIOD / 2)
        before = [askings(host) for host in service.sentinels]
        for host in service.sentinels:
            host.program.publish("+switch-master", "mymaster2 10.0.0.1 6379 10.0.0.2 6379")
            host.program.publish("+switch-master", "other 10.0.0.1 6379 10.0.0.2 6379")
            host.program.publish("+promoted-slave", "slave 10.0.0.2:6379 10.0.0.2 6379 @ other 10.0.0.1 6379")
            host.program.publish("+reboot", "master other 10.0.0.1 6379")
        await settled()
        assert [askings(host) for host in service.sentinels] == before
        assert names(monitor) == ("10.0.0.1", 6379, 0)


async def test_a_flood_of_events_is_one_reason_to_ask(network: Network) -> None:
    """Neither memory nor questions grow with it: there is one question at a time, and one to come."""
    service = Service(network, sentinels=1)
    [host] = service.sentinels
    host.delay = 0.01
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        before = askings(host)
        for _ in range(1000):
            host.program.publish("+switch-master", "mymaster 10.0.0.1 6379 10.0.0.2 6379")
        await trio.sleep(POLL_PERIOD / 2)
        assert 1 <= askings(host) - before <= 3


async def test_an_event_is_not_believed(network: Network) -> None:
    """It says what the Sentinels, asked about it, do not."""
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        for host in service.sentinels:
            host.program.publish("+switch-master", "mymaster 10.0.0.1 6379 6.6.6.6 6379")
        await trio.sleep(10)
        assert names(monitor) == ("10.0.0.1", 6379, 0)


async def test_an_event_while_the_answer_is_on_its_way_makes_it_ask_again(network: Network) -> None:
    service = Service(network, sentinels=1)
    [host] = service.sentinels
    async with watching(service) as monitor:
        await monitor.first_target()
        await settled()
        release = trio.Event()
        host.tap("SENTINEL SENTINELS", instead=Hold(release))
        await trio.sleep(POLL_PERIOD)  # the poll's answer is held back, with what was true before
        service.fail_over()
        await settled()
        release.set()
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=1) == 0


async def test_the_poll_finds_what_pub_sub_lost(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        service.fail_over(tell=False)
        service.tell(quietly=True)
        took = await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=2)
        assert 0 < took <= POLL_PERIOD + 0.01


async def test_a_sentinel_that_may_not_be_subscribed_to_is_polled(network: Network) -> None:
    service = Service(network)
    for host in service.sentinels:
        host.tap("SUBSCRIBE", times=float("inf"), instead=Reply(Error("NOPERM this user has no permissions")))
    async with watching(service) as monitor:
        await monitor.first_target()
        service.fail_over()
        assert await until(lambda: names(monitor) == ("10.0.0.2", 6379, 1), within=2) <= POLL_PERIOD + 0.01


async def test_a_failover_with_the_sentinels_own_delays(network: Network) -> None:
    """It is followed when the first of them names the new master, and reported once."""
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        changes: list[float] = []
        monitor.on_change.add(lambda: changes.append(trio.current_time()))
        service.master.kill()
        await service.elect(detect=1.0, tell=0.9)
        await settled()
        assert names(monitor) == ("10.0.0.2", 6379, 1)
        assert len(changes) == 1
        assert changes[0] == pytest.approx(1.9)  # the leader's +promoted-slave: it names the new address from then on


async def test_a_stale_sentinel_cannot_take_it_back(network: Network) -> None:
    service = Service(network)
    stale = service.sentinels[0]
    async with watching(service) as monitor:
        await monitor.first_target()
        changes: list[float] = []
        service.fail_over(tell=False)
        service.tell(*service.sentinels[1:])
        await settled()
        monitor.on_change.add(lambda: changes.append(trio.current_time()))
        for _ in range(30):
            stale.program.publish("+switch-master", "mymaster 10.0.0.2 6379 10.0.0.1 6379")
            await trio.sleep(1)
        assert names(monitor) == ("10.0.0.2", 6379, 1)
        assert changes == []
        assert monitor.describe()["10.0.1.1:26379"] == "names 10.0.0.1:6379 (config epoch 0)"


async def test_nor_can_it_when_it_is_the_only_one_left(network: Network) -> None:
    service = Service(network)
    service.sentinels[0].hang()  # cut off, while the others elect another master
    async with watching(service) as monitor:
        await monitor.first_target()
        service.fail_over(kill=False, tell=False)
        service.tell(*service.sentinels[1:])
        await settled()
        for host in service.sentinels[1:]:
            host.kill()
        service.sentinels[0].resume()
        await trio.sleep(30)
        assert "names 10.0.0.1:6379" in monitor.describe()["10.0.1.1:26379"]
        assert names(monitor) == ("10.0.0.2", 6379, 1)


# ---- epochs that start again ------------------------------------------------------------------------------------


async def test_remove_and_monitor_of_the_same_master_is_no_change(network: Network) -> None:
    service = Service(network)
    service.fail_over()
    async with watching(service) as monitor:
        await monitor.first_target()
        changes: list[float] = []
        monitor.on_change.add(lambda: changes.append(trio.current_time()))
        service.remove_and_monitor(service.master)
        await trio.sleep(2)
        assert names(monitor) == ("10.0.0.2", 6379, 0)
        assert changes == []


async def test_after_that_the_next_failover_is_followed_at_once(network: Network) -> None:
    service = Service(network)
    old = service.fail_over()
    async with watching(service) as monitor:
        await monitor.first_target()
        service.remove_and_monitor(service.master)
        service.bring_back(old)
        await trio.sleep(2)
        service.fail_over(to=old)
        assert await until(lambda: names(monitor) == ("10.0.0.1", 6379, 1), within=2) == 0


async def test_remove_and_monitor_of_another_master_is_believed_after_a_while(network: Network) -> None:
    """A majority, no Sentinel that still holds to the old view, some time, and the server's own word."""
    service = Service(network)
    service.fail_over(kill=False)
    async with watching(service) as monitor:
        await monitor.first_target()
        service.remove_and_monitor(service.servers[0])  # which goes on as a master
        took = await until(lambda: names(monitor) == ("10.0.0.1", 6379, 0), within=10)
        assert REGRESSION_HOLD <= took <= REGRESSION_HOLD + 2 * POLL_PERIOD


@pytest.mark.parametrize("trouble", ["replica", "down", "nonsense", "hung"])
async def test_but_not_if_that_server_does_not_say_so_itself(network: Network, trouble: str) -> None:
    service = Service(network)
    service.fail_over()
    async with watching(service) as monitor:
        await monitor.first_target()
        candidate = service.servers[2]
        match trouble:
            case "down":
                candidate.kill()
            case "hung":
                candidate.hang()
            case "nonsense":
                candidate.tap("ROLE", times=float("inf"), instead=Reply(["master", 1, [["x"]]]))
        service.remove_and_monitor(candidate)
        await trio.sleep(30)
        assert names(monitor) == ("10.0.0.2", 6379, 1)


# ---- votes ------------------------------------------------------------------------------------------------------


async def test_a_vote_is_held_at_once_though_one_sentinel_hangs(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        target = await monitor.first_target()
        await trio.sleep(0.5)
        service.sentinels[0].hang()
        started = trio.current_time()
        votes = await monitor.vote(target)
        assert (votes.known, votes.agreeing, votes.is_majority) == (3, 2, True)
        assert trio.current_time() == started


async def test_a_vote_waits_for_no_one_longer_than_its_patience(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        target = await monitor.first_target()
        await trio.sleep(0.5)
        service.sentinels[0].hang()
        service.sentinels[1].hang()
        started = trio.current_time()
        votes = await monitor.vote(target)
        assert (votes.known, votes.agreeing, votes.is_majority) == (3, 1, False)
        assert trio.current_time() - started == PATIENCE


async def test_a_vote_counts_only_what_was_asked_now(network: Network) -> None:
    """An answer that was on its way already is of the time before."""
    service = Service(network, sentinels=1)
    [host] = service.sentinels
    async with watching(service) as monitor:
        target = await monitor.first_target()
        await trio.sleep(0.5)
        host.tap("SENTINEL SENTINELS", instead=Hold(trio.Event()))
        await trio.sleep(1)
        votes = await monitor.vote(target)
        assert (votes.known, votes.agreeing) == (1, 0)


async def test_a_vote_on_a_master_that_most_have_left(network: Network) -> None:
    service = Service(network)
    async with watching(service) as monitor:
        target = await monitor.first_target()
        await settled()
        service.fail_over(tell=False)
        service.tell(*service.sentinels[1:], quietly=True)
        await trio.sleep(0.01)
        votes = await monitor.vote(target)
        assert not votes.is_majority
        await settled()
        assert (await monitor.vote(target)).dissenting == 2


async def test_a_sentinel_is_given_no_more_time_than_response_timeout(network: Network) -> None:
    service = Service(network)
    for host in service.sentinels:
        host.hang()
    async with watching(service, response_timeout=0.5) as monitor:
        with pytest.raises(NoSentinelReachable):
            await monitor.first_target()
    assert trio.current_time() == 0.5


# ---- a data node's own word -------------------------------------------------------------------------------------


async def test_a_role_is_asked_for_on_a_connection_of_its_own(network: Network) -> None:
    """State that remains: no open connection to the server that was asked."""
    service = Service(network)
    async with watching(service) as monitor:
        role = await monitor.ask_role(Address(*service.master.address))
        assert role is not None
        assert role.kind == "master"
        role = await monitor.ask_role(Address(*service.replicas[0].address))
        assert role is not None
        assert role.is_synced_replica
        assert service.master.open_wires == service.replicas[0].open_wires == []


@pytest.mark.parametrize("handshakes_role", [True, False])
@pytest.mark.parametrize("instead", [HANG_UP, SILENCE, Raw(b"?"), Reply(["master", 1, [[]]])])
async def test_a_server_that_does_not_say_its_role(network: Network, handshakes_role: bool, instead: Any) -> None:
    service = Service(network)
    service.master.tap("ROLE", skip=0 if handshakes_role else 1, instead=instead)
    async with watching(service) as monitor:
        assert await monitor.ask_role(Address(*service.master.address)) is None
        assert trio.current_time() == (PATIENCE if instead is SILENCE else 0)
        assert service.master.open_wires == []


# ---- its end ----------------------------------------------------------------------------------------------------


async def test_nothing_is_left_of_it(network: Network) -> None:
    """State that remains: no task and no open connection, however far each Sentinel's task had come."""
    service = Service(network)
    service.sentinels[1].hang()
    service.sentinels[2].vanish()
    async with watching(service) as monitor:
        await monitor.first_target()
    assert tasks_below(trio.lowlevel.current_task()) == []
    assert network.open_client_ends == []


async def test_it_tells_its_changes_in_the_log(network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_sentinel_scan")
    service = Service(network)
    async with watching(service) as monitor:
        await monitor.first_target()
        service.fail_over()
        await settled()
    assert [record.getMessage() for record in caplog.records] == [
        "service mymaster: the master is 10.0.0.1:6379 (config epoch 0)",
        "service mymaster: the master is 10.0.0.2:6379 (config epoch 1)",
    ]
