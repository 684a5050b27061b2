"""How a cluster's scan can end before its end: nothing of it is left over."""

from __future__ import annotations

import pytest
import trio

from tests.real.cluster_scenes import ClusterAccount, open_client
from tests.real.scenes import clients_tasks
from trio_sentinel_scan import ClientClosed, ClusterClient, ScanPages
from trio_sentinel_scan.testing import LocalCluster, ServerBinary

pytestmark = [pytest.mark.trio, pytest.mark.slow]


def lanes_tasks() -> list[str]:
    """The tasks that scans are running."""
    return [name for name in clients_tasks() if ".cluster_scan." in name]


async def connections(cluster: LocalCluster) -> int:
    """How many clients the nodes have, ours and those of the tests."""
    return sum([int((await node.info("clients"))["connected_clients"]) for node in cluster.nodes])


async def test_it_is_left_early(server_binary: ServerBinary) -> None:
    """By break, by an exception of the body, by a cancelled scope at many points, by closing all ends."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(3_000)
        async with client.open_scan(prefetch=0) as pages:
            async for _ in pages:
                break
        assert lanes_tasks() == []
        before = await connections(cluster)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the block is what is tested)
            async with client.open_scan(prefetch=0) as pages:
                await pages.receive()
                raise ZeroDivisionError
        for steps in range(40):
            with trio.CancelScope() as scope:
                async with client.open_scan(prefetch=0, count=10, segments=1) as pages:
                    for _ in range(steps):
                        await pages.receive()
                    scope.cancel()
                    await pages.receive()
            assert scope.cancelled_caught
            assert lanes_tasks() == []
        async with client.open_scan(prefetch=0) as pages:
            other = pages.clone()
            await pages.receive()
            await pages.aclose()
            await other.receive()
            await other.aclose()
            while lanes_tasks():  # noqa: ASYNC110 (the tasks are the scan's own)
                await trio.sleep(0.002)
            assert not pages.summary.complete
        assert await connections(cluster) <= before
        account = ClusterAccount()
        async with client.open_scan() as pages:
            await account.take_the_rest(pages)
        account.check_complete(pages.summary, keys)


async def test_several_consumers(server_binary: ServerBinary) -> None:
    """Each page goes to one of them."""
    async with LocalCluster(replicas=0, binary=server_binary) as cluster, open_client(cluster) as client:
        keys = await cluster.fill(3_000)
        account = ClusterAccount()

        async def consume(end: ScanPages[bytes]) -> None:
            async with end:
                async for page in end:
                    account.note(page)

        async with client.open_scan(count=50) as pages, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume, pages.clone())
        account.check_complete(pages.summary, keys)


async def test_the_client_is_closed(server_binary: ServerBinary) -> None:
    """The scan raises."""
    async with LocalCluster(1, 0, binary=server_binary) as cluster:
        await cluster.fill(1_000)
        client = ClusterClient(cluster.addresses)
        close = trio.Event()

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            async with client:
                task_status.started()
                await close.wait()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            async with client.open_scan(prefetch=0, count=10) as pages:
                await pages.receive()
                close.set()
                with pytest.raises(ClientClosed):  # noqa: PT012 (it is raised by some page)
                    async for _ in pages:
                        await trio.lowlevel.checkpoint()
        with pytest.raises(ClientClosed):
            client.open_scan()
