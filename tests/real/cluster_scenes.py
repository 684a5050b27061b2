"""What the tests of a cluster's scan share: an account of every key, and keys of one slot."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.real.scenes import HANG
from trio_sentinel_scan import ClusterClient, ScanPage, ScanPages
from trio_sentinel_scan._core.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable

    from trio_sentinel_scan import ScanSummary
    from trio_sentinel_scan.testing import LocalCluster, LocalClusterNode


def keys_of_slot(slot: int, number: int, prefix: str = "s") -> set[bytes]:
    """So many keys in one slot."""
    tag = next(word for word in map(str, range(1_000_000)) if slot_of(word.encode()) == slot)
    return {b"%b{%b}:%d" % (prefix.encode(), tag.encode(), at) for at in range(number)}


def in_slots(keys: Iterable[bytes], slots: Collection[int]) -> set[bytes]:
    """Those of the keys that are in one of these slots."""
    return {key for key in keys if slot_of(key) in slots}


class ClusterAccount:
    """What a cluster's scan has handed out, in order."""

    def __init__(self) -> None:
        self.pages: list[ScanPage[bytes]] = []

    async def take(self, pages: ScanPages[bytes], count: int = 1) -> None:
        """Receive so many pages."""
        for _ in range(count):
            self.note(await pages.receive())

    async def take_until_at(self, pages: ScanPages[bytes], node: LocalClusterNode) -> None:
        """Receive up to the first page of this node."""
        node_id = await node.node_id()
        while not self.pages or self.pages[-1].node != node_id:
            await self.take(pages)

    async def take_the_rest(self, pages: ScanPages[bytes]) -> None:
        """Receive until the end."""
        async for page in pages:
            self.note(page)

    def note(self, page: ScanPage[bytes]) -> None:
        """Take down one page."""
        assert len(page) > 0
        assert page.node
        if page.position is not None:
            assert 0 < page.position <= 1
        self.pages.append(page)

    @property
    def nodes(self) -> list[str]:
        """The nodes that pages came from, each once, in order."""
        return list(dict.fromkeys(page.node or "" for page in self.pages))

    def keys(self) -> list[bytes]:
        """All that was handed out, with repetitions."""
        return [key for page in self.pages for key in page]

    def check_complete(
        self, summary: ScanSummary, stayed: Collection[bytes], *, others: Collection[bytes] = ()
    ) -> None:
        """The scan is complete: it has handed out every key that was there all the time, and none that never was."""
        found = set(self.keys())
        missing = set(stayed) - found
        assert not missing, f"{len(missing)} of {len(stayed)} keys were lost"
        assert not found - set(stayed) - set(others), "keys that are not to be handed out"
        assert summary.complete
        assert summary.position == 1.0
        assert summary.keys == len(self.keys())
        assert summary.pages == len(self.pages)
        assert summary.epoch == max([restart.epoch for restart in summary.restarts], default=0)
        assert summary.certificate is not None
        assert summary.certificate.basis == "cluster"
        assert summary.certificate.slots >= 16384


@asynccontextmanager
async def open_client(cluster: LocalCluster, **arguments: Any) -> AsyncGenerator[ClusterClient]:
    """A client of the cluster; the block may not take for ever."""
    with trio.fail_after(HANG):
        async with ClusterClient(cluster.addresses, **arguments) as client:
            yield client


def can_move_atomically(cluster: LocalCluster) -> bool:
    """Whether its servers have MIGRATESLOTS."""
    binary = cluster._binary
    assert binary is not None
    return binary.product == "valkey" and binary.version_info >= (9,)
