"""Passwords and permissions, on either side: who may not is told so by a typed error, and no error tells a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.real.scenes import Account, clients_tasks, drain, identity_of, open_booth, open_stage
from trio_sentinel_scan import (
    AuthenticationFailed,
    NoSentinelReachable,
    RedisClient,
    ScanInterrupted,
    ScanRefused,
    SentinelClient,
    connect,
)
from trio_sentinel_scan.testing import LocalSentinel

if TYPE_CHECKING:
    import trio

pytestmark = pytest.mark.trio

KEYS = 2_000
DATA: dict[str, Any] = {"username": "app", "password": "data secret"}
SENTINEL: dict[str, Any] = {"sentinel_username": "watch", "sentinel_password": "sentinel secret"}


async def test_a_user_of_each_side_through_a_failover(nursery: trio.Nursery) -> None:
    async with open_stage(nursery, keys=KEYS, **DATA, **SENTINEL) as stage, stage.client(**DATA, **SENTINEL) as client:
        before = await identity_of(stage.first)
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            _, new = await stage.depose(kill=True)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        account.check_master_change(pages.summary, before, await identity_of(new))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({**DATA, **SENTINEL, "password": "wrong"}, AuthenticationFailed),
        ({**DATA, **SENTINEL, "username": "nobody"}, AuthenticationFailed),
        (SENTINEL, AuthenticationFailed),
        ({**DATA, **SENTINEL, "sentinel_password": "wrong"}, NoSentinelReachable),
        (DATA, NoSentinelReachable),
    ],
    ids=["wrong_password", "wrong_user", "no_password", "wrong_sentinel_password", "no_sentinel_password"],
)
async def test_a_wrong_login(options: dict[str, Any], expected: type[Exception]) -> None:
    async with LocalSentinel(replicas=0, **DATA, **SENTINEL) as service:
        client = SentinelClient(service.sentinels, service.service, **options)
        with pytest.raises(expected) as caught:
            async with client:
                pytest.fail("this is not to be let in")
        assert clients_tasks() == []
        for told in (str(caught.value), repr(caught.value), repr(client)):
            assert "secret" not in told
            assert "wrong" not in told
        if isinstance(caught.value, NoSentinelReachable):
            assert len(caught.value.sentinels) == 3
            refusals = ("refused the username or password", "Authentication required")
            assert all(any(why in said for why in refusals) for said in caught.value.sentinels.values())


async def test_a_password_that_is_changed_in_mid_scan(nursery: trio.Nursery) -> None:
    """An open connection stays good; a new one is refused, and is not tried again."""
    async with open_booth(nursery, acl={"app": "on >first ~* &* +@all"}) as booth:
        booth.keys = await booth.server.fill(KEYS)
        async with booth.client(username="app", password="first") as client:
            account: Account[bytes] = Account()
            async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
                await account.take(pages, 3)
                await booth.server.execute("ACL", "SETUSER", "app", "resetpass", ">second")
                await account.take(pages, 3)
                connections = booth.proxy.connections
                booth.proxy.reset_all()
                with pytest.raises(AuthenticationFailed, match="refused the username or password"):
                    await account.take_the_rest(pages)
                assert booth.proxy.connections == connections + 1
            account.check_summary(pages.summary)
            assert not pages.summary.complete


async def test_a_user_without_role_and_info(nursery: trio.Nursery) -> None:
    """It scans. But nobody tells it which process it talks to, so each new connection is a new epoch."""
    user = {"username": "scanner", "password": "secret"}
    acl = {"scanner": "on >secret ~* &* +@all -role -info"}
    async with open_stage(nursery, keys=KEYS, acl=acl) as stage, stage.client(**user) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            assert account.pages[0].server.run_id is None
            assert account.pages[0].position is None
            for epoch in (1, 2):
                stage.proxy(stage.first).reset_all()
                while account.epochs[-1] < epoch:
                    await account.take(pages)
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=2)
        assert all("does not tell which process" in restart.reason for restart in pages.summary.restarts)
        assert pages.summary.reconnects == 0
        certificate = pages.summary.certificate
        assert certificate is not None
        # HELLO tells the role.
        assert (certificate.basis, certificate.role) == ("sentinels", "master")


async def test_a_user_without_role_and_info_through_a_failover(nursery: trio.Nursery) -> None:
    user = {"username": "scanner", "password": "secret"}
    acl = {"scanner": "on >secret ~* &* +@all -role -info"}
    async with open_stage(nursery, keys=KEYS, acl=acl) as stage, stage.client(**user) as client:
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, segments=1) as pages:
            await account.take(pages, 3)
            _, new = await stage.depose()
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, stage.keys, epoch=1)
        assert pages.summary.restarts[0].reason.startswith("MASTER_CHANGE")
        assert pages.summary.server is not None
        assert pages.summary.server.address == new.address


async def test_a_user_without_info_and_on_failover_raise(nursery: trio.Nursery) -> None:
    acl = {"scanner": "on >secret ~* &* +@all -info"}
    async with (
        open_booth(nursery, keys=KEYS, acl=acl) as booth,
        booth.client(username="scanner", password="secret") as client,
    ):
        account: Account[bytes] = Account()
        async with client.open_scan(count=100, prefetch=0, on_failover="raise", segments=1) as pages:
            await account.take(pages, 3)
            booth.proxy.reset_all()
            with pytest.raises(ScanInterrupted, match="does not tell which process") as caught:
                await account.take_the_rest(pages)
        assert caught.value.keys == len(account.keys())
        assert not pages.summary.complete


async def test_a_user_without_scan(nursery: trio.Nursery) -> None:
    acl = {"reader": "on >secret ~* &* +@all -scan"}
    async with (
        open_stage(nursery, keys=KEYS, acl=acl) as stage,
        stage.client(username="reader", password="secret") as client,
    ):
        async with client.open_scan(count=1000, segments=1) as pages:
            with pytest.raises(ScanRefused, match="no permissions") as caught:
                await pages.receive()
            assert caught.value.summary is not None
            assert not caught.value.summary.complete
        assert await client.dbsize() == KEYS


async def test_logins_by_url() -> None:
    async with LocalSentinel(replicas=0, **DATA, **SENTINEL) as service:
        keys = await service.fill(100)
        async with connect(service.url) as client, client.open_scan(count=1000, segments=1) as pages:
            (await drain(pages)).check_complete(pages.summary, keys, epoch=0)
        assert "secret" not in repr(client)


@pytest.mark.parametrize("protocol", [None, 2, 3])
async def test_a_password_without_a_user(nursery: trio.Nursery, protocol: Literal[2, 3] | None) -> None:
    async with open_booth(nursery, keys=100, password="secret") as booth:
        async with (
            RedisClient(booth.server.address, password="secret", protocol=protocol) as client,
            client.open_scan(count=1000, segments=1) as pages,
        ):
            (await drain(pages)).check_complete(pages.summary, booth.keys, epoch=0)
        with pytest.raises(AuthenticationFailed, match="wants a password"):
            async with RedisClient(booth.server.address, protocol=protocol):
                pytest.fail("it wants a password")
