"""A cluster that can be cut in two: its bus led through a process that lets through what it is told to."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from ._cluster_node import LocalClusterNode
from ._errors import PortTaken, ServerNotRunning, ServerStartFailed
from ._ports import release_port, take_port
from ._workspace import Workspace, log_tail

_SCRIPT = Path(__file__).with_name("_bus_switch.py")
# A Python that starts takes some tenths of a second.
_STEP_SECONDS = 0.02


class Partition:
    """The switch process, and the doors before the nodes' buses."""

    def __init__(self, path: Path, log: Path) -> None:
        self._path = path
        self._log = log
        self._doors: dict[LocalClusterNode, int] = {}

    @classmethod
    async def open(cls, workspace: Workspace, patience: float) -> Partition:
        """Start the process, which ends with the workspace, and wait until it takes orders.

        Raises:
            ServerStartFailed: it takes none.

        """
        path, log = workspace.directory / "bus", workspace.directory / "bus.log"
        # -P: it lies beside modules whose names are not meant for it.
        process = await workspace.spawn([sys.executable, "-P", str(_SCRIPT), str(path)], workspace.directory, log)
        found = cls(path, log)
        with trio.move_on_after(patience):
            while process.returncode is None:
                try:
                    (await found._connect()).socket.close()
                except OSError:
                    await trio.sleep(_STEP_SECONDS)
                else:
                    return found
        raise ServerStartFailed(f"the bus's switch does not answer. Its log:\n{log_tail(log)}")

    async def lead_through(self, node: LocalClusterNode) -> None:
        """Have a node that is settled, and not started yet, announce a bus port that leads through the switch.

        Raises:
            PortTaken: another process has the port that was chosen.

        """
        door = self._doors[node] = take_port()
        node.announce_bus(door)
        if await self._order("serve", door, str(node.bus_port)) != "ok":
            raise PortTaken(f"port {door} before the bus of {node!r} is taken")

    async def cut(self, node: LocalClusterNode, node_id: str) -> None:
        """Let nothing through to this node or from it."""
        await self._order("cut", self._doors[node], node_id)

    async def join(self, node: LocalClusterNode, node_id: str) -> None:
        """Let it through again."""
        await self._order("join", self._doors[node], node_id)

    def release(self) -> None:
        """Give back what its workspace does not own."""
        for door in self._doors.values():
            release_port(door)
        self._doors.clear()

    async def _order(self, verb: str, door: int, other: str) -> str:
        try:
            async with await self._connect() as stream:
                await stream.send_all(f"{verb} {door} {other}\n".encode())
                # A word comes in one piece.
                return bytes(await stream.receive_some()).decode().strip()
        except (OSError, trio.BrokenResourceError) as error:
            raise ServerNotRunning(f"the bus's switch does not answer. Its log:\n{log_tail(self._log)}") from error

    async def _connect(self) -> trio.SocketStream:
        connecting = trio.socket.socket(trio.socket.AF_UNIX)
        try:
            await connecting.connect(str(self._path))
        except BaseException:
            connecting.close()
            raise
        return trio.SocketStream(connecting)
