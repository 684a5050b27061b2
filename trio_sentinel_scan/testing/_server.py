"""One server process: what can be done to it from outside, and how to talk to it."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import trio

from ._binary import ServerBinary, find_server_binary
from ._certificates import Certificates
from ._directives import Directive, render
from ._errors import (
    CommandFailed,
    HarnessError,
    PortTaken,
    ServerNotRunning,
    ServerStartFailed,
    ServerUnresponsive,
    TlsUnavailable,
)
from ._ports import HOST, release_port, take_port
from ._wire import Argument, Endpoint, Reply, converse, text, within_a_second
from ._workspace import Workspace, log_tail

# Steps in which a fact that no event announces is awaited: a server starting, a replica linking.
STEP_SECONDS = 0.005

_PORT_IS_TAKEN = ("Address already in use", "Failed listening on port", "Could not create server TCP listening socket")


class LocalServer(ABC):
    """A server process on loopback: the part that :class:`LocalRedis` and a Sentinel's process have in common.

    Users get instances, and make none. Every wait ends after ``patience`` seconds with
    :class:`ServerUnresponsive`.
    """

    def __init__(
        self,
        *,
        name: str,
        binary: str | os.PathLike[str] | ServerBinary | None,
        username: str | None,
        password: str | None,
        tls: Certificates | None,
        patience: float,
    ) -> None:
        if username is not None and password is None:
            raise ValueError("username= needs password= beside it")
        if not patience > 0:
            raise ValueError(f"patience must be a positive number of seconds, not {patience!r}")
        self._name = name
        self._wanted_binary = binary
        self._username = username
        self._password = password
        self._tls = tls
        self._tls_context: ssl.SSLContext | None = None if tls is None else tls.client_context()
        self._patience = patience
        # Known once it belongs to a workspace.
        self._binary: ServerBinary | None = None
        self._workspace: Workspace | None = None
        self._directory: Path | None = None
        self._port: int | None = None
        # Those that it has until they are given back: what it serves at, and what else it listens at.
        self._reserved: list[int] = []
        self._process: trio.Process | None = None
        self._paused = False
        self._log_of_earlier_lives = 0

    ################################################################
    # What it is
    ################################################################

    @property
    def host(self) -> str:
        """Where it listens: always ``"127.0.0.1"``."""
        return HOST

    @property
    def port(self) -> int:
        """The port, which it keeps through stops and restarts."""
        if self._port is None:
            raise ServerNotRunning(f"{self._name} has no port before its `async with` block has begun")
        return self._port

    @property
    def address(self) -> tuple[str, int]:
        """``(host, port)``."""
        return self.host, self.port

    @property
    def binary(self) -> ServerBinary:
        """The program that it runs, with its version."""
        if self._binary is None:
            raise ServerNotRunning(f"{self._name} has no program before its `async with` block has begun")
        return self._binary

    @property
    def pid(self) -> int:
        """The number of the running process.

        Raises:
            ServerNotRunning: it was stopped or killed, or has ended by itself.

        """
        return self._running_process().pid

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.returncode is None

    @property
    def paused(self) -> bool:
        """Whether it was paused, and not yet resumed."""
        return self._paused and self.running

    @property
    def log_path(self) -> Path:
        """Its log file, over all its lives. It goes away with the ``async with`` block."""
        if self._directory is None:
            raise ServerNotRunning(f"{self._name} has no log before its `async with` block has begun")
        return self._directory / "server.log"

    @property
    def log(self) -> str:
        """What its log file holds now."""
        return self.log_path.read_text(errors="replace")

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "not running"
        return f"<{self._name} at {HOST}:{self._port} ({'paused, ' if self.paused else ''}{state})>"

    ################################################################
    # What can be done to it
    ################################################################

    async def start(self) -> None:
        """Start it again after :meth:`stop` or :meth:`kill`, on the same port, and wait until it serves.

        It finds what its data directory holds: the data as of the last SAVE, and the configuration with the
        changes that the Sentinels made to it. Does nothing but wait if it is running.

        Raises:
            ServerStartFailed: the process ended instead.
            ServerUnresponsive: it does not serve in time.

        """
        with self._bounded("to start"):
            while True:
                try:
                    if self.running:
                        await self.wait_until_ready()
                    else:
                        await self._launch()
                except PortTaken:
                    # Nothing of ours keeps a dead server's port. Whoever does is likely to be gone in a moment.
                    await trio.sleep(10 * STEP_SECONDS)
                else:
                    return

    async def stop(self) -> None:
        """End it in the orderly way (SIGTERM), without saving, and wait until it is gone.

        Raises:
            ServerUnresponsive: it did not go; it was killed.

        """
        process = self._process
        if process is None or process.returncode is not None:
            await trio.lowlevel.checkpoint()
            return
        process.terminate()
        self._continue(process)  # A stopped process would not hear of it.
        try:
            with self._bounded("to stop"):
                await process.wait()
        finally:
            await self._put_to_death(process)  # noqa: ASYNC102 (it shields and bounds itself)

    async def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it is gone. Works on a paused one. What was not saved is lost."""
        process = self._process
        if process is None or process.returncode is not None:
            await trio.lowlevel.checkpoint()
            return
        self._paused = False
        await self._put_to_death(process)

    async def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): connections stay open and nothing answers. Returns once it stands still.

        Raises:
            ServerNotRunning: there is no process to pause.

        """
        process = self._running_process()
        process.send_signal(signal.SIGSTOP)
        self._paused = True
        with self._bounded("to stand still"):
            await trio.lowlevel.checkpoint()
            while process.returncode is None and not _stands_still(process.pid):  # noqa: ASYNC110 - no event tells
                await trio.sleep(STEP_SECONDS)

    async def resume(self) -> None:
        """Let a paused one go on (SIGCONT). It first answers what has waited. Does nothing to others."""
        process = self._process
        if process is not None and process.returncode is None:
            self._continue(process)
        await trio.lowlevel.checkpoint()

    async def restart(self) -> None:
        """Kill it and start it again on the same port, and wait until it serves: another process, another run_id."""
        await self.kill()
        await self.start()

    async def wait_until_ready(self) -> None:
        """Wait until it answers and has loaded its data.

        Raises:
            ServerStartFailed: the process has ended.
            ServerUnresponsive: it is not ready in time.

        """
        with self._bounded("to be ready"):
            while True:
                process = self._process
                if process is None or process.returncode is not None:
                    raise await self._why_it_ended()
                if await self._serves(process):
                    return
                await trio.sleep(STEP_SECONDS)

    ################################################################
    # Talking to it
    ################################################################

    async def execute(self, *command: Argument) -> Reply:
        """Send one command over a connection of its own and return the reply: bytes, int, None or a list of them.

        Raises:
            CommandFailed: the reply is an error.
            ServerNotRunning: there is no process, or it closed the connection.
            ServerUnresponsive: it does not answer in time.

        """
        return (await self.pipeline([command]))[0]

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send several commands at once over a connection of their own and return their replies.

        Raises:
            CommandFailed: a reply is an error. All commands were executed all the same.
            ServerNotRunning: there is no process, or it closed the connection.
            ServerUnresponsive: it does not answer in time.

        """
        self._running_process()
        endpoint = Endpoint(HOST, self.port, self._username, self._password, self._tls_context)
        with self._bounded("to answer"):
            try:
                return await converse(endpoint, commands)
            except CommandFailed as error:
                error.add_note(f"asked: {self!r}")
                raise

    async def info(self, section: str = "default") -> dict[str, str]:
        """INFO, as a dictionary of texts."""
        reply = await self.execute("INFO", section)
        lines = text(reply).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    async def run_id(self) -> str:
        """The identity that the running process has given itself; every restart gives a new one."""
        return (await self.info("server"))["run_id"]

    async def role(self) -> str:
        """What it thinks that it is: ``"master"``, ``"slave"`` or ``"sentinel"``."""
        reply = await self.execute("ROLE")
        return text(reply[0]) if isinstance(reply, list) else ""

    ################################################################
    # For the harness
    ################################################################

    @abstractmethod
    def _directives(self, _binary: ServerBinary, directory: Path, port: int) -> Iterable[Directive]:
        """The contents of its configuration file."""

    @abstractmethod
    def _arguments(self) -> tuple[str, ...]:
        """What goes on the command line after the configuration file."""

    async def _find_binary(self) -> ServerBinary:
        wanted = self._wanted_binary
        # In a thread, for it may run the program.
        found = (
            wanted if isinstance(wanted, ServerBinary) else await trio.to_thread.run_sync(find_server_binary, wanted)
        )
        if self._tls is not None and not found.tls:
            raise TlsUnavailable(f"{found.path} ({found.product} {found.version}) was built without TLS")
        await trio.lowlevel.checkpoint()
        return found

    def _settle(self, workspace: Workspace, binary: ServerBinary) -> None:
        """Give it a port and a directory."""
        self._workspace = workspace
        self._binary = binary
        self._port = self._reserve(binary)
        self._directory = Path(tempfile.mkdtemp(prefix=self._name.replace(" ", "-"), dir=workspace.directory))

    def _reserve(self, _binary: ServerBinary) -> int:
        """Take all ports that it needs; returns the one that it serves at."""
        port = take_port()
        self._reserved.append(port)
        return port

    def _unsettle(self) -> None:
        """Give back what it has outside its workspace, which whoever owns that one closes."""
        while self._reserved:
            release_port(self._reserved.pop())
        self._workspace = None

    async def _spawn(self) -> None:
        workspace = self._owner()
        directory = self.log_path.parent
        configuration = directory / "server.conf"
        if not configuration.exists():
            # Written once: later starts must find what CONFIG REWRITE and the Sentinels have made of it.
            configuration.write_text(render(self._directives(self.binary, directory, self.port)))
        command = [str(self.binary.path), str(configuration), *self._arguments()]
        self._paused = False
        self._log_of_earlier_lives = len(self.log) if self.log_path.exists() else 0
        try:
            self._process = await workspace.spawn(command, directory, self.log_path)
        except OSError as error:
            raise ServerStartFailed(f"{self.binary.path} cannot be started: {error}") from error

    async def _launch(self) -> None:
        await self._spawn()
        await self.wait_until_ready()

    async def _serves(self, process: trio.Process) -> bool:
        # It may be a stranger on our port that is slow to answer, while our process ends.
        info = await within_a_second(self.info) or {}
        return info.get("process_id") == str(process.pid) and info.get("loading", "0") == "0"

    async def _why_it_ended(self) -> HarnessError:
        await trio.lowlevel.checkpoint()
        last_words = self.log[self._log_of_earlier_lives :]
        if any(sign in last_words for sign in _PORT_IS_TAKEN):
            return PortTaken(f"port {self.port} of {self!r} is taken")
        status = None if self._process is None else self._process.returncode
        return ServerStartFailed(
            f"{self!r} ended (exit status {status}). The end of its log:\n{log_tail(self.log_path)}"
        )

    async def _put_to_death(self, process: trio.Process) -> None:
        self._owner().kill(process)
        # It takes some milliseconds. Cancelled in between, it would be neither running nor gone.
        with self._bounded("to be gone", shield=True):
            await process.wait()

    def _owner(self) -> Workspace:
        if self._workspace is None:
            raise ServerNotRunning(f"{self._name} can be started only inside its `async with` block")
        return self._workspace

    def _running_process(self) -> trio.Process:
        if self._process is None or self._process.returncode is not None:
            raise ServerNotRunning(f"{self!r}: there is no process")
        return self._process

    def _continue(self, process: trio.Process) -> None:
        process.send_signal(signal.SIGCONT)
        self._paused = False

    @contextlib.contextmanager
    def _bounded(self, goal: str, *, shield: bool = False) -> Generator[None, None, None]:
        try:
            with trio.fail_after(self._patience, shield=shield):
                yield
        except trio.TooSlowError:
            raise ServerUnresponsive(
                f"{self!r} had {self._patience} seconds {goal}. The end of its log:\n{log_tail(self.log_path)}"
            ) from None


def _stands_still(pid: int) -> bool:
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return True
    # Looks (WNOWAIT) and leaves the rest to Popen, which does not ask about stops.
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
