"""Several data servers behind one address, and a SCAN over all of them, as some cloud providers' proxies have it.

The cursor has the number of the node in its upper bits, and the node's own cursor below. With a node's id at the end of
the command, that node alone is scanned, by its own cursors. INFO and ROLE are answered by whichever node it happens to
be, or refused; there is no HELLO.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from .data_server import DataServer, Session, Value
from .resp import Error, Simple

__all__ = ["ScanProxy"]

_NODE_BITS: Final = 48
_ONE_CURSOR: Final = 1 << _NODE_BITS


class ScanProxy:
    """The proxy's program. Its nodes are reached through it alone."""

    def __init__(self, address: tuple[str, int], rng: Random, *, nodes: int = 3) -> None:
        self.address = address
        self._rng = rng
        self.nodes = [DataServer((f"10.9.0.{number}", 6379), rng) for number in range(1, nodes + 1)]
        self._sessions: dict[int, list[Session]] = {}
        # Whether INFO and ROLE are answered at all.
        self.tells = True
        # Whether cursors go in a circle once so many SCANs were answered; and those since then.
        self.circles_after: float = float("inf")
        self._circle: list[int] = []
        self.circle_length = 3
        self.scans = 0

    def node_id(self, index: int) -> bytes:
        """By which a node is named at the end of a command."""
        return b"node-%d" % (index + 1)

    # ---- the data ------------------------------------------------------------------------------------------------

    def write(self, *keys: bytes) -> None:
        """Each key has its node."""
        for number, key in enumerate(keys):
            self.nodes[number % len(self.nodes)].put(0, key, Value(key))

    def keys(self, index: int | None = None) -> set[bytes]:
        """Those of all nodes, or of one."""
        nodes = self.nodes if index is None else [self.nodes[index]]
        return {key for node in nodes for key in node.data.get(0, {})}

    def restart_node(self, index: int) -> None:
        """Another process, with the same data. Nobody in front of the proxy is told."""
        self.nodes[index].restart()

    def remove_node(self) -> None:
        """The cluster is made smaller: the last node's keys go to the others."""
        gone = self.nodes.pop()
        self.write(*gone.data.get(0, {}))

    # ---- the program ---------------------------------------------------------------------------------------------

    def joined(self, session: Session) -> None:
        """A connection was made."""
        session.user = "default"

    def restart(self) -> None:
        """The proxy keeps nothing in mind."""

    def answer(self, session: Session, words: list[bytes]) -> Any:
        """The reply to one command."""
        name, args = words[0].upper(), words[1:]
        if name == b"SCAN":
            return self._scan(session, args)
        if name in (b"INFO", b"ROLE") and self.tells:
            return self._rng.choice(self.nodes).answer(session, words)
        if name in (b"CLIENT", b"PING"):
            return Simple("OK")
        return Error(f"ERR unknown command '{name.decode()}'")

    def _scan(self, session: Session, args: list[bytes]) -> Any:
        self.scans += 1
        cursor, options = int(args[0]), args[1:]
        if len(options) % 2:
            ids = [self.node_id(index) for index in range(len(self.nodes))]
            if options[-1] not in ids:
                return Error("ERR invalid node id")
            return self.nodes[ids.index(options[-1])].answer(session, [b"SCAN", b"%d" % cursor, *options[:-1]])
        index, own = divmod(cursor, _ONE_CURSOR)
        if index >= len(self.nodes):
            return Error("ERR invalid cursor(master node idx out of range)")
        after, keys = self.nodes[index].answer(session, [b"SCAN", b"%d" % own, *options])
        following = index * _ONE_CURSOR + int(after)
        if int(after) == 0:
            following = (index + 1) * _ONE_CURSOR if index + 1 < len(self.nodes) else 0
        if self.scans > self.circles_after:
            following = self._next_of_circle()
        return [str(following), keys]

    def _next_of_circle(self) -> int:
        if not self._circle:
            self._circle = [self._rng.getrandbits(20) + 1 for _ in range(self.circle_length)]
        self._circle.append(self._circle.pop(0))
        return self._circle[0]
