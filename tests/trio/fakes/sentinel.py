"""What a Sentinel answers and publishes. No event loop, no clock: who elects whom is the world's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .data_server import OK, DataServer, Session
from .resp import Error, Push

__all__ = ["Monitored", "Sentinel"]


@dataclass
class Monitored:
    """One service as this Sentinel has it."""

    master: tuple[str, int]
    config_epoch: int
    # What SENTINEL MASTER shows; in mid-failover the leader shows the old address there, under the new epoch already.
    shown: tuple[str, int] | None = None


class Sentinel:
    """One Sentinel: what it believes, and to whom it talks."""

    def __init__(self, address: tuple[str, int], myid: str) -> None:
        self.address = address
        self.myid = myid
        self.services: dict[str, Monitored] = {}
        self.password: str | None = None
        # The other Sentinels as it lists them.
        self.peers: list[Sentinel] = []
        # Another address to be listed at by the others, when it announces one.
        self.announced = address
        # The data servers, from which it makes the list of replicas and their processes.
        self.servers: list[DataServer] = []
        # What it says of some of them otherwise: fields by address; {"flags": "slave,s_down"}, {"runid": ""}.
        self.views: dict[tuple[str, int], dict[str, str]] = {}
        # Replicas that it does not list.
        self.unlisted: set[tuple[str, int]] = set()
        self._sessions: list[Session] = []

    def joined(self, session: Session) -> None:
        """A connection was made."""
        session.user = "default" if self.password is None else None
        self._sessions.append(session)

    def restart(self) -> None:
        """Another process: nobody has subscribed to anything."""
        self._sessions.clear()

    def publish(self, channel: str, payload: str) -> None:
        """Say something to whoever has subscribed."""
        for session in self._sessions:
            if channel in session.channels:
                session.push(Push([b"message", channel, payload]))

    def switch(self, service: str, master: tuple[str, int], config_epoch: int, *, quietly: bool = False) -> None:
        """Believe in another master, and say so."""
        known = self.services[service]
        old, known.master, known.config_epoch, known.shown = known.master, master, config_epoch, None
        if not quietly:
            (old_host, old_port), (host, port) = old, master
            self.publish("+switch-master", f"{service} {old_host} {old_port} {host} {port}")

    def answer(self, session: Session, words: list[bytes]) -> Any:
        """The reply to one command."""
        name, *args = (word.decode() for word in words)
        if name == "AUTH":
            if args[-1] != self.password:
                return Error("WRONGPASS invalid username-password pair or user is disabled.")
            session.user = "default"
            return OK
        if session.user is None:
            return Error("NOAUTH Authentication required.")
        match name, *args:
            case "SUBSCRIBE", channel:
                session.channels.add(channel)
                return Push([b"subscribe", channel, len(session.channels)])
            case ("ROLE",):
                return ["sentinel", list(self.services)]
            case "HELLO", _:
                return {b"server": b"redis", b"proto": 2, b"mode": b"sentinel"}
            case "INFO", *_:
                return "# Server\r\nredis_mode:sentinel\r\n"
            case "CLIENT", *_:
                return OK
            case "SENTINEL", subcommand, *args:
                return self._answer_of_its_own(subcommand, *args)
            case _:
                return Error(f"ERR unknown command '{name}'")

    def _answer_of_its_own(self, *words: str) -> Any:
        match words:
            case ("MYID",):
                return self.myid
            case "GET-MASTER-ADDR-BY-NAME", service if service not in self.services:
                return None
            case "GET-MASTER-ADDR-BY-NAME", service:
                host, port = self.services[service].master
                return [host, str(port)]
            case (("MASTER" | "SENTINELS" | "REPLICAS"), service) if service not in self.services:
                return Error("ERR No such master with that name")
            case "MASTER", service:
                return self._master(service)
            case "SENTINELS", _:
                return [self._peer(peer) for peer in self.peers]
            case "REPLICAS", service:
                return [self._replica(service, server) for server in self._replicas(service)]
            case _:
                return Error(f"ERR Unknown sentinel subcommand '{words[0]}'")

    def _master(self, service: str) -> Any:
        known = self.services[service]
        host, port = known.shown or known.master
        fields = {"name": service, "ip": host, "port": str(port), "flags": "master", "quorum": "2"}
        fields |= {"config-epoch": str(known.config_epoch), "num-other-sentinels": str(len(self.peers))}
        fields["runid"] = next((server.run_id for server in self.servers if server.address == (host, port)), "")
        return {**fields, **self.views.get((host, port), {})}

    def _replicas(self, service: str) -> list[DataServer]:
        known = self.services[service]
        gone = self.unlisted | {known.shown or known.master}
        return [server for server in self.servers if server.address not in gone]

    def _replica(self, service: str, server: DataServer) -> Any:
        host, port = server.address
        fields = {"name": f"{host}:{port}", "ip": host, "port": str(port), "runid": server.run_id, "flags": "slave"}
        fields |= {"role-reported": "master" if server.master is None else "slave", "replica-announced": "1"}
        fields |= {"master-link-status": "ok" if server.link == "connected" else "err", "slave-priority": "100"}
        return {**fields, "slave-repl-offset": "1", **self.views.get(server.address, {})}

    def _peer(self, peer: Sentinel) -> Any:
        host, port = peer.announced
        return {"name": peer.myid, "ip": host, "port": str(port), "runid": peer.myid, "flags": "sentinel"}
