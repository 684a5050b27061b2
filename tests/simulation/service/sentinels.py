"""What a Sentinel that acts knows, and what it answers from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.trio.fakes import Sentinel, encode

from .machines import Encoded

if TYPE_CHECKING:
    from .actors import Actor


__all__ = ["Instance", "Place", "SimSentinel"]

Place = tuple[str, int]


@dataclass
class Instance:
    """A data server as one Sentinel has it."""

    address: Place
    run_id: str = ""
    # By its own INFO; "" until it has answered.
    role: str = ""
    role_since: float = 0.0
    follows: Place | None = None
    follows_since: float = 0.0
    link_ok: bool = False
    link_down_for: float = 0.0
    offset: int = 0
    last_ok: float = 0.0
    info_at: float = -1e9
    down_since: float | None = None
    # "", "sent" or "done", while a failover is under way.
    told: str = ""

    @property
    def flags(self) -> str:
        return "s_down" if self.down_since is not None else ""


class SimSentinel(Sentinel):
    """What it answers: from what its actor knows."""

    actor: Actor

    def __init__(self, address: Place, myid: str) -> None:
        super().__init__(address, myid)
        # Long answers as bytes, by what they tell: they are asked for all the time, and hardly ever change.
        self._told: dict[object, Encoded] = {}

    def _answer_of_its_own(self, *words: str) -> Any:
        actor = self.actor
        known = self.services.get(words[-1])
        tells: object
        if known is None:
            return super()._answer_of_its_own(*words)
        match words[0]:
            case "MASTER":
                run_id, flags = actor.master.run_id, actor.master.flags
                tells = known.master, known.shown, known.config_epoch, run_id, flags, actor.o_down
            case "REPLICAS":
                tells = tuple(
                    (i.address, i.run_id, i.role, i.link_ok, i.offset, i.down_since is None)
                    for i in actor.replicas.values()
                )
            case "SENTINELS":
                tells = "sentinels"
            case _:
                return super()._answer_of_its_own(*words)
        found = self._told.get((words[0], tells))
        if found is None:
            found = self._told[words[0], tells] = Encoded(encode(super()._answer_of_its_own(*words)))
        return found

    def _master(self, service: str) -> Any:
        known = self.services[service]
        host, port = known.shown or known.master
        master = self.actor.master
        flags = ",".join(filter(None, ["master", master.flags, "o_down" if self.actor.o_down else ""]))
        fields = {"name": service, "ip": host, "port": str(port), "runid": master.run_id, "flags": flags}
        fields |= {"config-epoch": str(known.config_epoch), "num-other-sentinels": str(len(self.peers))}
        return {**fields, "quorum": str(self.actor.world.quorum)}

    def _replicas(self, service: str) -> list[Any]:
        return list(self.actor.replicas.values())

    def _replica(self, service: str, server: Any) -> Any:
        instance: Instance = server
        host, port = instance.address
        flags = ",".join(filter(None, ["slave", instance.flags, "" if instance.role else "disconnected"]))
        fields = {"name": f"{host}:{port}", "ip": host, "port": str(port), "runid": instance.run_id, "flags": flags}
        fields |= {"role-reported": instance.role or "slave", "replica-announced": "1", "slave-priority": "100"}
        fields["master-link-status"] = "ok" if instance.link_ok else "err"
        return {**fields, "slave-repl-offset": str(instance.offset)}
