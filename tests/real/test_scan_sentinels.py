"""Sentinels that are away, too few, stopped, or asked for the wrong name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.real.scenes import (
    Account,
    clients_tasks,
    consuming,
    drain,
    identity_of,
    open_stage,
    until,
    until_in,
)
from trio_sentinel_scan import (
    MasterNotFound,
    NoSentinelReachable,
    ScanNotCertified,
    SentinelClient,
    ServerUnavailable,
    ServiceUnknown,
)
from trio_sentinel_scan._core.scan_states import State

if TYPE_CHECKING:
    from tests.real.scenes import Stage

pytestmark = pytest.mark.trio

KEYS = 2_000


async def kill_sentinels(stage: Stage, *numbers: int) -> None:
    for number in numbers:
        await stage.service.sentinel_nodes[number].kill()


async def test_all_are_down_at_the_start(nursery: trio.Nursery) -> None:
    async with open_stage(nursery) as stage:
        await kill_sentinels(stage, 0, 1, 2)
        client = SentinelClient(stage.service.sentinels, stage.service.service)
        with pytest.raises(NoSentinelReachable) as caught:
            async with client:
                pytest.fail("there is nobody to connect to")
        assert set(caught.value.sentinels) == {f"{host}:{port}" for host, port in stage.service.sentinels}
        head, *lines = str(caught.value).splitlines()
        assert "mymaster" in head
        assert len(lines) == 3
        for line, (host, port) in zip(sorted(lines), sorted(stage.service.sentinels), strict=True):
            assert line.strip().startswith(f"{host}:{port}: ")
            assert "cannot be reached" in line
        assert clients_tasks() == []


async def test_all_are_down_from_mid_scan_on(nursery: trio.Nursery) -> None:
    """The scan goes on and sweeps everything; what it cannot have is the certificate, and so it is no success."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=1.0) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            await kill_sentinels(stage, 0, 1, 2)
            with pytest.raises(
                ScanNotCertified, match=r"0 of 3 Sentinels.*failover_timeout|failover_timeout.*0 of 3"
            ) as caught:
                await account.take_the_rest(pages)
        assert set(account.keys()) == stage.keys
        account.check_without_duplicates()
        account.check_summary(pages.summary)
        assert pages.summary.certificate is None
        assert pages.summary.epoch == 0
        assert caught.value.summary is not None
        assert not caught.value.summary.complete
        assert caught.value.summary.position == 1.0
        assert 'certify="role"' in str(caught.value)


async def test_all_are_down_and_the_servers_own_word_will_do(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, certify="role", segments=1) as pages:
            await account.take(pages, 3)
            await kill_sentinels(stage, 0, 1, 2)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=0)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.basis, certificate.role, certificate.replicas) == ("role", "master", 1)
        assert 'no Sentinel was asked (certify="role")' in str(certificate)


async def test_all_are_down_at_the_certificate_and_come_back(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=1000, segments=1) as pages:
            await account.take(pages)
            await until_in(pages, State.DRAINING)
            await kill_sentinels(stage, 0, 1, 2)

            are_back = trio.Event()

            async def come_back() -> None:
                await until_in(pages, State.HESITATING)
                for sentinel in stage.service.sentinel_nodes:
                    await sentinel.start()
                are_back.set()

            nursery.start_soon(come_back)
            await account.take_the_rest(pages)
            # (A majority is enough for the scan; the last one is not to be taken away while it starts.)
            await are_back.wait()
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()
        certificate = pages.summary.certificate
        assert certificate is not None
        assert certificate.sentinels_agreeing >= 2


async def test_all_are_down_and_the_master_too(nursery: trio.Nursery) -> None:
    """Nobody is left to scan, or to name another one."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client(failover_timeout=1.0) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            await kill_sentinels(stage, 0, 1, 2)
            await stage.first.kill()
            with pytest.raises(ServerUnavailable, match="failover_timeout"):
                await account.take_the_rest(pages)
        account.check_summary(pages.summary)
        assert not pages.summary.complete
        assert pages.summary.epoch == 0


async def test_one_of_three_in_reach(nursery: trio.Nursery) -> None:
    """Enough to start and to scan on, and not enough to call it complete."""
    async with open_stage(nursery, keys=KEYS) as stage:
        await kill_sentinels(stage, 0, 2)
        async with stage.client(failover_timeout=1.0) as client:
            account: Account[bytes] = Account()
            async with client.open_scan(count=100, segments=1) as pages:
                with pytest.raises(ScanNotCertified, match="1 of 3 Sentinels"):
                    await account.take_the_rest(pages)
            assert set(account.keys()) == stage.keys
            assert not pages.summary.complete
            async with client.open_scan(certify="role", count=1000, segments=1) as pages:
                (await drain(pages)).check_complete(pages.summary, stage.keys, epoch=0)


async def test_two_of_three_in_reach(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS) as stage:
        await kill_sentinels(stage, 1)
        async with stage.client() as client, client.open_scan(count=1000, segments=1) as pages:
            (await drain(pages)).check_complete(pages.summary, stage.keys, epoch=0)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.sentinels_agreeing, certificate.sentinels_known) == (2, 3)
        assert "2 of 3 Sentinels agree" in str(certificate)


async def test_one_is_enough_to_find_the_others(nursery: trio.Nursery) -> None:
    """The client is told of one, learns of all, and follows the others when that one is gone."""
    async with open_stage(nursery, keys=KEYS) as stage:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with (
            SentinelClient([stage.service.sentinels[0]], stage.service.service) as client,
            client.open_scan(count=100, prefetch=0, segments=1) as pages,
        ):
            await account.take(pages, 3)
            await until(lambda: client._monitor.topology.everyone_tried)
            assert len(client._monitor.topology.records) == 3
            await kill_sentinels(stage, 0)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))


async def test_none_knows_the_name(nursery: trio.Nursery) -> None:
    async with open_stage(nursery) as stage:
        with pytest.raises(ServiceUnknown, match="nosuch") as caught:
            async with SentinelClient(stage.service.sentinels, "nosuch"):
                pytest.fail("there is no such service")
        assert len(caught.value.sentinels) == 3
        assert all("does not know" in status for status in caught.value.sentinels.values())
        assert len(str(caught.value).splitlines()) == 4
        assert clients_tasks() == []


async def test_one_does_not_know_the_name(nursery: trio.Nursery) -> None:
    """It counts all the same: the two others are a majority of three."""
    async with open_stage(nursery, keys=KEYS) as stage:
        await stage.service.sentinel_nodes[0].execute("SENTINEL", "REMOVE", "mymaster")
        async with stage.client() as client, client.open_scan(count=100, segments=1) as pages:
            (await drain(pages)).check_complete(pages.summary, stage.keys, epoch=0)
        certificate = pages.summary.certificate
        assert certificate is not None
        assert (certificate.sentinels_agreeing, certificate.sentinels_known) == (2, 3)


async def test_lost_connections_to_them(nursery: trio.Nursery) -> None:
    """They are made again, and the next failover is followed."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            for proxy in stage.sentinel_proxies:
                proxy.reset_all()
            await account.take(pages, 3)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))


async def test_all_are_stopped_at_the_certificate(nursery: trio.Nursery) -> None:
    """They take connections and say nothing, for a while."""
    async with open_stage(nursery, keys=KEYS) as stage, stage.client() as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            for sentinel in stage.service.sentinel_nodes:
                await sentinel.pause()
            async with consuming(pages, account):
                await until_in(pages, State.HESITATING)
                for sentinel in stage.service.sentinel_nodes:
                    await sentinel.resume()
        account.check_complete(pages.summary, stage.keys, epoch=0)
        account.check_without_duplicates()


async def test_they_announce_what_cannot_be_reached(nursery: trio.Nursery) -> None:
    async with open_stage(nursery) as stage:
        nowhere = {node.address: ("127.0.0.1", 1) for node in stage.service.nodes}
        with pytest.raises(MasterNotFound, match="address_map") as caught:
            async with stage.client(address_map=stage.address_map | nowhere, failover_timeout=0.5):
                pytest.fail("the master is not there")
        assert len(caught.value.sentinels) == 3
        assert all(said.startswith("names ") for said in caught.value.sentinels.values())
