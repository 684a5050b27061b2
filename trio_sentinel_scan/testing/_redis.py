"""One Redis or Valkey server with data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import trio

from ._binary import ServerBinary
from ._certificates import Certificates
from ._directives import Config, Directive, from_user, of_any_process, of_data_node
from ._errors import CommandFailed, PortTaken, ServerStartFailed
from ._server import STEP_SECONDS, LocalServer
from ._workspace import Workspace

# How often another process may have our port before we call it a fault.
START_ATTEMPTS = 10

_KEYS_PER_MSET = 1_000
_KEYS_PER_CONVERSATION = 20_000


class LocalRedis(LocalServer):
    """A server of its own on a free loopback port, for the length of an ``async with`` block::

        async with LocalRedis() as server:
            keys = await server.fill(10_000)
            async with RedisClient(server.address) as client: ...

    It starts empty, writes nothing to disk unless told, and listens on 127.0.0.1 only. Whatever happens to the
    block, the process and its files are gone afterwards.

    Args:
        config: directives of ``redis.conf`` to add or override, such as ``{"maxmemory": "100mb"}``.
        binary: the server program; by default what :func:`find_server_binary` finds.
        username: with ``password``, an ACL user who may do everything; the user ``default`` is then off.
        password: what clients must say. Alone, it is the password of the user ``default``.
        acl: more users and their rules, such as ``{"scanner": "on >secret ~* +@all -info"}``.
        tls: speak TLS, with these certificates, instead of plain TCP.
        replica_of: the address of a master to replicate, which must have the same password.
        patience: the longest that any method waits for the server, in seconds.

    Raises (on entering):
        ServerBinaryNotFound: there is no server program.
        TlsUnavailable: the server program has no TLS.
        ServerStartFailed, ServerUnresponsive: it did not start, and the message quotes its log.

    """

    def __init__(
        self,
        *,
        config: Config | None = None,
        binary: str | os.PathLike[str] | ServerBinary | None = None,
        username: str | None = None,
        password: str | None = None,
        acl: Mapping[str, str] | None = None,
        tls: Certificates | None = None,
        replica_of: tuple[str, int] | None = None,
        patience: float = 30.0,
    ) -> None:
        super().__init__(
            name="redis",
            binary=binary,
            username=username,
            password=password,
            tls=tls,
            patience=patience,
        )
        self._config = dict(config or {})
        self._acl = dict(acl or {})
        self._replica_of = replica_of
        self._entered = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a LocalRedis can be entered only once")
        self._entered = True
        binary = await self._find_binary()
        workspace = Workspace()
        try:
            await self._start_somewhere(workspace, binary)
        except BaseException:
            await self._leave(workspace)  # noqa: ASYNC102 (it shields and bounds itself)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process, however the block ended."""
        await self._leave(self._owner())  # noqa: ASYNC102 (it shields and bounds itself)

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:<port>/0``, or ``rediss://``, with the username and password if there are any."""
        scheme = "redis" if self._tls is None else "rediss"
        return f"{scheme}://{credentials(self._username, self._password)}{self.host}:{self.port}/0"

    async def fill(self, n: int, prefix: str | bytes = "key:", start: int = 0, *, value: bytes = b"x") -> set[bytes]:
        """Write ``n`` keys, ``prefix`` with the numbers from ``start`` on, into database 0; return the keys.

        Some 200,000 keys take a second. Replicas may not have them yet.
        """
        head = prefix.encode() if isinstance(prefix, str) else prefix
        written: set[bytes] = set()
        for first in range(start, start + n, _KEYS_PER_CONVERSATION):
            beyond = min(first + _KEYS_PER_CONVERSATION, start + n)
            keys = [b"%b%d" % (head, number) for number in range(first, beyond)]
            await self.pipeline(
                [
                    ("MSET", *chain.from_iterable((key, value) for key in keys[at : at + _KEYS_PER_MSET]))
                    for at in range(0, len(keys), _KEYS_PER_MSET)
                ]
            )
            written.update(keys)
        await trio.lowlevel.checkpoint()
        return written

    async def keys(self) -> set[bytes]:
        """All keys of database 0."""
        reply = await self.execute("KEYS", "*")
        return {key for key in reply if isinstance(key, bytes)} if isinstance(reply, list) else set()

    async def save(self) -> None:
        """Write the data to disk (SAVE), where the next start finds it."""
        with self._bounded("to save"):
            while True:
                try:
                    await self.execute("SAVE")
                except CommandFailed as error:
                    # A replica is being given its first copy, which is the same job.
                    if "in progress" not in error.reply:
                        raise
                    await trio.sleep(STEP_SECONDS)
                else:
                    return

    async def restart(self, *, save: bool = True) -> None:
        """Kill it and start it again on the same port, and wait until it has loaded: another process, another run_id.

        A paused server is killed as it is, and then ``save`` has no effect.

        Args:
            save: keep the data, as of now. What is written between the SAVE and the SIGKILL is lost, so let no
                one write meanwhile. Without it the server has what was last saved, which may be nothing.

        """
        if save and self.running and not self.paused:
            await self.save()
        await super().restart()

    def _directives(self, _binary: ServerBinary, directory: Path, port: int) -> Iterator[Directive]:
        yield from of_any_process(directory, port, self._tls)
        yield from of_data_node(
            _binary,
            username=self._username,
            password=self._password,
            acl=self._acl,
            replica_of=self._replica_of,
        )
        yield from from_user(self._config)

    def _arguments(self) -> tuple[str, ...]:
        return ()

    async def _start_somewhere(self, workspace: Workspace, binary: ServerBinary) -> None:
        for _ in range(START_ATTEMPTS):
            self._settle(workspace, binary)
            try:
                await self._launch()
            except PortTaken:
                self._unsettle()
            else:
                return
        await trio.lowlevel.checkpoint()
        raise ServerStartFailed(f"{START_ATTEMPTS} ports in a row were taken by other processes")

    async def _leave(self, workspace: Workspace) -> None:
        try:
            await workspace.close()
        finally:
            self._unsettle()


def credentials(username: str | None, password: str | None) -> str:
    """The part of a URL before the host."""
    if password is None:
        return ""
    return f"{quote(username or '', safe='')}:{quote(password, safe='')}@"
