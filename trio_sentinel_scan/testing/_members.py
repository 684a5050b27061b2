"""The members of a service as the service itself sees them, while it sets them up.

Their users see a :class:`LocalRedis` and a :class:`LocalSentinelNode`; what only the whole can decide about a member
(where it lives, whom it follows, when it starts) is opened up here, for :class:`LocalSentinel` alone.
"""

from __future__ import annotations

from ._binary import ServerBinary
from ._redis import LocalRedis
from ._sentinel_node import Address, LocalSentinelNode
from ._workspace import Workspace


class DataMember(LocalRedis):
    """A data node that belongs to a service."""

    async def find_binary(self) -> ServerBinary:
        """Find the program, for all members."""
        return await self._find_binary()

    def settle(self, workspace: Workspace, binary: ServerBinary) -> None:
        """Give it a port and a directory."""
        self._settle(workspace, binary)

    def unsettle(self) -> None:
        """Give back what its workspace does not own."""
        self._unsettle()

    def follow(self, master: Address) -> None:
        """Make it a replica, from its first start on."""
        self._replica_of = master

    async def spawn(self) -> None:
        """Start the process without waiting until it serves."""
        await self._spawn()


class SentinelMember(LocalSentinelNode):
    """A Sentinel that belongs to a service."""

    def settle(self, workspace: Workspace, binary: ServerBinary) -> None:
        """Give it a port and a directory."""
        self._settle(workspace, binary)

    def unsettle(self) -> None:
        """Give back what its workspace does not own."""
        self._unsettle()

    def watch(self, master: Address) -> None:
        """Make it watch this master, from its first start on."""
        self._master = master

    async def spawn(self) -> None:
        """Start the process without waiting until it serves."""
        await self._spawn()
