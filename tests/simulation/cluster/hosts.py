"""A host that answers what came in one go in one go: a latency for each round trip, and few steps of the event loop."""

from __future__ import annotations

import hiredis
import trio

from tests.trio.fakes.data_server import Session
from tests.trio.fakes.network import Host, Network, Wire

from .nodes import Node

__all__ = ["NodeHost", "add_host"]


class NodeHost(Host[Node]):
    """Where one node runs."""

    # Seconds from a command's coming to the answer. (`delay` stays 0.)
    latency = 0.0

    async def _serve(self, wire: Wire) -> None:
        session = Session(push=lambda value: self._push(wire, session, value), is_open=lambda: not wire.over.is_set())
        session_joined = False
        reader = hiredis.Reader()
        while data := await wire.read():
            reader.feed(data)
            if self.latency:
                await trio.sleep(self.latency)
            while (words := reader.gets()) is not False:
                if self.hung:
                    await self._runs.wait()
                if wire.over.is_set():
                    return
                if not session_joined:
                    session_joined = True
                    self.program.joined(session)
                await self._answer(wire, session, words)
                if wire.over.is_set():
                    return

    def restore(self, latency: float) -> None:
        """The network is as it was."""
        self.vanished = False
        self.latency = latency


def add_host(network: Network, node: Node) -> NodeHost:
    """A host for a node."""
    host = network.hosts[node.address] = NodeHost(network.nursery, node)
    return host
