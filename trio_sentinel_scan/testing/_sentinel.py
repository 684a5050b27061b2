"""A whole Sentinel service: a master, its replicas, and the Sentinels that watch them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote, urlencode

import trio

from ._agreement import ask_for_failover, find_fault_in_links, find_fault_in_service, find_master, find_role
from ._binary import ServerBinary
from ._certificates import Certificates
from ._directives import Config
from ._ensemble import Ensemble
from ._members import DataMember, SentinelMember
from ._redis import LocalRedis, credentials
from ._sentinel_node import LocalSentinelNode, Monitoring
from ._workspace import Workspace


class LocalSentinel(Ensemble):
    """A master, replicas and Sentinels on free loopback ports, for the length of an ``async with`` block::

        async with LocalSentinel() as sentinel:
            keys = await sentinel.fill(200_000)
            old = await sentinel.kill()
            new = await sentinel.wait_for_new_master(old)

    The block begins when every replica is linked to the master and every Sentinel knows all the others and all
    replicas, so that a failover works at once. Whatever happens to the block, the processes and their files are
    gone afterwards. What is done to "the master" is done to the one that the Sentinels name at that time.

    Sentinel takes its time whatever its settings: it notices a dead master after ``down_after``, names the new
    one about a second after having promoted it, leaves a healthy old master alone for about ten seconds after a
    planned failover, and tries no second failover by itself within twice the ``failover_timeout``.
    It also waits a second before it connects anew to a server that was not there a moment ago. So with
    ``down_after`` = 1 a kill is now and then followed by a second, genuine failover, and a restart by a first one;
    tests that count failovers, or restart the master, want 2 or more. Tests that need an old master demoted soon
    can send each of ``sentinel_nodes`` ``SENTINEL DEBUG info-period 500 publish-period 250`` (Redis 7, Valkey).

    Args:
        replicas: how many replicas the master has.
        sentinels: how many Sentinels watch it.
        service: the name under which they do.
        down_after: seconds of silence after which a Sentinel holds a server to be down.
        failover_timeout: Sentinel's ``failover-timeout``, in seconds.
        parallel_syncs: how many replicas may turn to a new master at the same time; by default all.
        quorum: how many Sentinels must agree that the master is down; by default the majority.
        username: with ``password``, an ACL user of the data nodes who may do everything; ``default`` is then off.
        password: what clients of the data nodes must say. Alone, it is the password of the user ``default``.
        acl: more users of the data nodes and their rules: ``{"scanner": "on >secret ~* +@all -info"}``.
        sentinel_username, sentinel_password: the same for the Sentinels.
        tls: speak TLS everywhere, with these certificates, instead of plain TCP.
        config: directives of ``redis.conf`` to add or override on the data nodes.
        sentinel_config: directives of ``sentinel.conf`` to add: ``{"sentinel": ["resolve-hostnames yes"]}``.
        binary: the server program; by default what :func:`find_server_binary` finds.
        patience: the longest that any method waits, in seconds.

    Raises (on entering):
        ServerBinaryNotFound: there is no server program.
        TlsUnavailable: the server program has no TLS.
        ServerStartFailed, ServerUnresponsive: something did not start, and the message quotes its log.

    """

    def __init__(
        self,
        replicas: int = 2,
        sentinels: int = 3,
        *,
        service: str = "mymaster",
        down_after: float = 1.0,
        failover_timeout: float = 3.0,
        parallel_syncs: int | None = None,
        quorum: int | None = None,
        username: str | None = None,
        password: str | None = None,
        acl: Mapping[str, str] | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        tls: Certificates | None = None,
        config: Config | None = None,
        sentinel_config: Config | None = None,
        binary: str | os.PathLike[str] | ServerBinary | None = None,
        patience: float = 30.0,
    ) -> None:
        if replicas < 0 or sentinels < 1:
            raise ValueError(f"a service needs replicas >= 0 and sentinels >= 1, not {replicas} and {sentinels}")
        if not service or not service.isprintable() or " " in service:
            raise ValueError(f"a service's name is a word, not {service!r}")
        monitoring = Monitoring(
            service=service,
            quorum=sentinels // 2 + 1 if quorum is None else quorum,
            down_after=down_after,
            failover_timeout=failover_timeout,
            parallel_syncs=max(1, replicas) if parallel_syncs is None else parallel_syncs,
            data_username=username,
            data_password=password,
            config=dict(sentinel_config or {}),
        )
        super().__init__(name=f"the service {service!r}", patience=patience)
        self._service = service
        self._tls = tls
        self._data_credentials = credentials(username, password)
        self._sentinel_credentials = {
            name: value
            for name, value in (("sentinel_username", sentinel_username), ("sentinel_password", sentinel_password))
            if value is not None
        }
        self._failover_timeout = failover_timeout
        self._nodes = [
            DataMember(
                config=config,
                binary=binary,
                username=username,
                password=password,
                acl=acl,
                tls=tls,
                patience=patience,
            )
            for _ in range(1 + replicas)
        ]
        self._sentinel_nodes = [
            SentinelMember(
                number=number,
                monitoring=monitoring,
                binary=binary,
                username=sentinel_username,
                password=sentinel_password,
                tls=tls,
                patience=patience,
            )
            for number in range(1, sentinels + 1)
        ]

    def _members(self) -> list[DataMember | SentinelMember]:
        return [*self._nodes, *self._sentinel_nodes]

    async def _find_binary(self) -> ServerBinary:
        return await self._nodes[0].find_binary()

    async def _start_all(self, workspace: Workspace, binary: ServerBinary) -> None:
        for member in self._members():
            member.settle(workspace, binary)
        master, *replicas = self._nodes
        await master.spawn()
        await master.wait_until_ready()  # A replica whose first attempt finds nobody makes the next a second later.
        for replica in replicas:
            replica.follow(master.address)
            await replica.spawn()
        for replica in replicas:
            await replica.wait_until_ready()
        await self._wait_until("to link its replicas", partial(find_fault_in_links, master, replicas))
        # Only now the Sentinels: what they learn from a replica that is not linked yet, they believe for ten seconds.
        for node in self._sentinel_nodes:
            node.watch(master.address)
            await node.spawn()
        for node in self._sentinel_nodes:
            await node.wait_until_ready()
        for node in self._sentinel_nodes:
            await node.introduce(self._sentinel_nodes)
        await self.wait_until_ready()

    ################################################################
    # What it is
    ################################################################

    @property
    def service(self) -> str:
        """The name under which the Sentinels watch the master."""
        return self._service

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """The addresses of the Sentinels."""
        return [node.address for node in self._sentinel_nodes]

    @property
    def sentinel_nodes(self) -> list[LocalSentinelNode]:
        """The Sentinels, to kill, pause, restart or ask one of them."""
        return list(self._sentinel_nodes)

    @property
    def nodes(self) -> list[LocalRedis]:
        """The data nodes, in a fixed order; the first began as the master."""
        return list(self._nodes)

    @property
    def url(self) -> str:
        """``redis+sentinel://127.0.0.1:<port>,.../<service>/0``, or ``rediss+sentinel://``, with all credentials."""
        scheme = "redis+sentinel" if self._tls is None else "rediss+sentinel"
        members = ",".join(f"{host}:{port}" for host, port in self.sentinels)
        query = "?" + urlencode(self._sentinel_credentials, quote_via=quote) if self._sentinel_credentials else ""
        return f"{scheme}://{self._data_credentials}{members}/{quote(self._service, safe='')}/0{query}"

    async def master(self) -> LocalRedis:
        """The node that is the master now: a majority of the Sentinels names it, and it says so itself.

        Waits while there is none, as in the midst of a failover. Of the Sentinels those count that run and are not
        paused; without any, the one node that calls itself master is it.

        Raises:
            ServerUnresponsive: there was none within the harness's patience.

        """
        return await self._wait_for_master_other_than(None)

    async def replicas(self) -> list[LocalRedis]:
        """The nodes that call themselves replicas now; those that are down or paused are left out."""
        await trio.lowlevel.checkpoint()
        return [node for node in self._nodes if await find_role(node) == "slave"]

    ################################################################
    # What can be done to it
    ################################################################

    async def kill(self) -> LocalRedis:
        """Kill the master (SIGKILL), and return it. ``await node.start()`` brings it back, empty."""
        master = await self.master()
        await master.kill()
        return master

    async def pause(self) -> LocalRedis:
        """Stop the master in its tracks (SIGSTOP), and return it: it hangs, and its connections stay open."""
        master = await self.master()
        await master.pause()
        return master

    async def resume(self) -> None:
        """Let all data nodes that are paused go on (SIGCONT)."""
        for node in self._nodes:
            if node.paused:
                await node.resume()
        await trio.lowlevel.checkpoint()

    async def restart(self, *, save: bool = True) -> LocalRedis:
        """Kill the master and start it again on the same port, with its data, and return it.

        It takes some tenths of a second. The Sentinels see the same address answer again and do nothing, provided
        that ``down_after`` leaves them the time: 2 seconds do, 1 is too short now and then.

        Args:
            save: see :meth:`LocalRedis.restart`.

        """
        master = await self.master()
        await master.restart(save=save)
        return master

    async def failover(self) -> LocalRedis:
        """Let the Sentinels replace the healthy master (SENTINEL FAILOVER), and return the new one.

        Returns when a majority of them names it, a second or more after its promotion. The old master goes on
        answering as master for about ten seconds more. If they refuse, for want of a good replica or because
        a failover is under way, they are asked again.

        Raises:
            ServerUnresponsive: no other master was named within the harness's patience.

        """
        old = await self.master()
        ask_again_at = trio.current_time()

        async def find_fault() -> str | None:
            nonlocal ask_again_at
            if trio.current_time() >= ask_again_at:
                refusal = await ask_for_failover(self._sentinel_nodes)
                if refusal is not None:
                    return refusal
                # One that was begun may be abandoned, of which nobody tells us.
                ask_again_at = trio.current_time() + 2 * self._failover_timeout
            new = await find_master(self._nodes, self._sentinel_nodes)
            return "no other master is named yet" if new is None or new is old else None

        await self._wait_until("to fail over", find_fault)
        return await self._wait_for_master_other_than(old)

    async def wait_for_new_master(self, old: LocalRedis) -> LocalRedis:
        """Wait until a majority of the Sentinels names another master than ``old``, and return it.

        Raises:
            ServerUnresponsive: there was none within the harness's patience.

        """
        return await self._wait_for_master_other_than(old)

    async def fill(self, n: int, prefix: str | bytes = "key:", start: int = 0, *, value: bytes = b"x") -> set[bytes]:
        """Write ``n`` keys to the master as :meth:`LocalRedis.fill` does, and wait until all replicas have them."""
        keys = await (await self.master()).fill(n, prefix, start, value=value)
        await self.wait_replicated()
        return keys

    async def wait_replicated(self) -> None:
        """Wait until every replica that is up has all that the master had when this was called.

        Raises:
            ServerUnresponsive: one had not within the harness's patience.

        """
        master = await self.master()
        replicas = await self.replicas()
        offset = int((await master.info("replication"))["master_repl_offset"])
        await self._wait_until("to replicate", partial(find_fault_in_links, master, replicas, offset))

    async def wait_until_ready(self) -> None:
        """Wait until all who are up are one service again, as it was when the block began.

        Then there is a master, every other data node that runs is a replica linked to it, every Sentinel that runs
        knows all of them and the other Sentinels, and the next failover works at once. After a planned failover it
        takes Sentinel ten seconds or more to bring the old master to that.

        Raises:
            ServerUnresponsive: it did not come to that within the harness's patience; the message says what is missing.

        """
        await self._wait_until("to be one service", partial(find_fault_in_service, self._nodes, self._sentinel_nodes))

    async def _wait_for_master_other_than(self, old: LocalRedis | None) -> LocalRedis:
        found: list[LocalRedis] = []

        async def find_fault() -> str | None:
            node = await find_master(self._nodes, self._sentinel_nodes)
            if node is None or node is old:
                return "none that a majority of the Sentinels and itself agree upon"
            found.append(node)
            return None

        await self._wait_until("to have a master" if old is None else "to have a new master", find_fault)
        return found[-1]
