# Generated from _trio/command_set.py by `nox -s anyio`: change that file, never this one.
"""What takes redis-py's commands: a client, a lease, a pipeline. Commands in, results out, as redis-py has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from redis._parsers.encoders import Encoder
from redis._parsers.response_callbacks import get_response_callbacks
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.commands.core import AsyncCoreCommands, AsyncScript
from redis.event import EventDispatcher, EventDispatcherInterface

from .._core.command_reader import CommandReader
from .._core.results import NONSENSE, RedisPysCallbacks, checked_page, unreadable
from .modules import ModuleCommands

if TYPE_CHECKING:
    from redis.typing import ScriptTextT

    from .._core.commands import Command
    from .._core.config import ClientSettings
    from .._core.results import Asker
    from .._core.wire import Reply

__all__ = ["CommandSet", "Dialect", "Script"]

# Options that are about the sending, not for the callback that makes a result of the reply.
_NOT_FOR_CALLBACKS: Final = (NEVER_DECODE, EMPTY_RESPONSE, "keys")
# Commands that are answered by a cursor and what was found.
_PAGED: Final = ("SCAN", "HSCAN", "SSCAN", "ZSCAN")


class Dialect:
    """How one client's arguments become bytes, and replies results. Its leases and pipelines have the same."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings: ClientSettings = settings
        make_encoder = cast("Callable[[str, str, bool], Encoder]", Encoder)
        self.encoder: Encoder = make_encoder(settings.encoding, settings.encoding_errors, settings.decode_responses)
        self.encode: Callable[[Any], bytes] = cast("Any", self.encoder).encode
        self._reader = CommandReader(
            self.encode, is_utf8=(settings.encoding, settings.encoding_errors) == ("utf-8", "strict")
        )
        # What makes results of replies, by command in capitals.
        self.callbacks: dict[str, Callable[..., Any]] = _callbacks(settings.protocol)
        # The same for a server that turns out to have no RESP3.
        self.resp2_callbacks: dict[str, Callable[..., Any]] = _callbacks(2)
        # Those of them that are not a user's.
        self.redis_pys: RedisPysCallbacks = RedisPysCallbacks(self.callbacks, self.resp2_callbacks)
        # redis-py's mixins want one of every client.
        self.event_dispatcher: EventDispatcherInterface = EventDispatcher()

    def read(self, args: tuple[Any, ...], *, leased: bool = False) -> Command:
        """A command as redis-py's methods give it, its arguments as bytes. Raises as `read_command` does."""
        return self._reader.read(args, leased=leased)

    def add_redis_pys(self, table: Mapping[str, Callable[..., Any]]) -> None:
        """More of redis-py's own callbacks, by command in capitals."""
        for callbacks in (self.callbacks, self.resp2_callbacks):
            callbacks.update(table)
        self.redis_pys.add(table)

    async def result(  # noqa: PLR0917 (it is called for each command of a pipeline)
        self, command: Command, name: object, reply: Reply, protocol: int, options: dict[str, Any], asker: Asker
    ) -> Any:
        """What redis-py makes of a reply that is no error. `name` is the command as it was given.

        Raises ProtocolError for a reply that the command cannot have, and what a user's callback raises.
        """
        full_name = name.upper() if isinstance(name, str) else ""
        callbacks = self.callbacks if protocol == 3 or self.settings.protocol == 2 else self.resp2_callbacks
        callback = callbacks.get(full_name)
        if callback is None:
            return reply  # noqa: ASYNC910 (its callers have waited for the reply)
        options = {key: value for key, value in options.items() if key not in _NOT_FOR_CALLBACKS}
        try:
            result = callback(reply, **options)
        except NONSENSE:
            if not self.redis_pys.may_not_be(full_name, callback, reply, options):
                raise
        else:
            return await result if inspect.isawaitable(result) else result  # noqa: ASYNC910 (as above)
        raise unreadable(full_name, asker.whereabouts(command))

    def is_redis_pys(self, name: object, protocol: int = 3) -> bool:
        """Whether nothing of a user's makes the results of this command, as it was given."""
        full_name = name.upper() if isinstance(name, str) else ""
        callbacks = self.callbacks if protocol == 3 or self.settings.protocol == 2 else self.resp2_callbacks
        callback = callbacks.get(full_name)
        return callback is None or self.redis_pys.has(full_name, callback)

    def made(self, name: str, where: object, make: Callable[..., Any], *results: Any, **options: Any) -> Any:
        """What redis-py's own code makes of results of this command. Raises ProtocolError where one cannot be."""
        try:
            return make(*results, **options)
        except NONSENSE:
            if not self.is_redis_pys(name):
                raise
        raise unreadable(name, where)


class Script(AsyncScript):
    """redis-py's script object: call it with `keys`, `args` and, to run it elsewhere, `client` (or a pipeline)."""

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """Run it by its hash; the server is given the text if it does not know it. Raises what EVALSHA does."""
        where = self.registered_client if client is None else client
        if isinstance(where, CommandSet):
            where.note_script(self)
        return await cast("Any", super()).__call__(keys, args, where)


class CommandSet(AsyncCoreCommands, ModuleCommands):  # type: ignore[misc]  # as in redis-py's own client
    """redis-py's commands, by its own mixins and response callbacks. What is below says how one gets to a server."""

    # redis-py's mixins choose their return types by this.
    _is_async_client: Literal[True] = True

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._event_dispatcher: EventDispatcherInterface = dialect.event_dispatcher

    # ---- what redis-py's own code asks of a client ---------------------------------------------------------------

    @property
    def response_callbacks(self) -> dict[str, Callable[..., Any]]:
        """What makes results of replies, by command in capitals."""
        return self._dialect.callbacks

    def set_response_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """Have `callback` make the results of `command`: it is given the reply, and the command's options by name."""
        name = command.upper()
        self._dialect.callbacks[name] = self._dialect.resp2_callbacks[name] = callback

    def set_redis_pys_callback(self, command: str, callback: Callable[..., Any]) -> None:
        """The same for one of redis-py's own, as those of the modules: what it raises is about the reply."""
        self._dialect.add_redis_pys({command.upper(): callback})

    def made_of_reply(self, command: str, make: Callable[..., Any], reply: Any, **options: Any) -> Any:
        """What redis-py's own code makes of a reply after its callbacks. Raises ProtocolError if it cannot."""
        # (In a pipeline there is no reply yet: that is the pipeline.)
        return (
            make(command, reply, **options)
            if reply is self
            else self._dialect.made(command, "the server", make, command, reply, **options)
        )

    def load_external_module(self, funcname: str, func: Any) -> None:
        """Add a function, such as the commands of a module that redis-py does not know, under a name."""
        setattr(self, funcname, func)

    def get_encoder(self) -> Encoder:
        """How arguments become bytes, and replies text; redis-py's scripts ask for it."""
        return self._dialect.encoder

    def get_connection_kwargs(self) -> dict[str, Any]:
        """What redis-py's mixins ask a client about its connections."""
        settings = self._dialect.settings
        return {"decode_responses": settings.decode_responses, "protocol": settings.protocol}

    @property
    def may_write_twice(self) -> bool:
        """Whether a write whose reply was lost is sent again: the client's `retry_writes`."""
        return self._dialect.settings.retry_writes

    def register_script(self, script: ScriptTextT) -> Script:  # type: ignore[override]  # as redis-py's AsyncScript
        """A Lua script as an object to be called with `keys` and `args`. Nothing is sent before that."""
        return Script(cast("Any", self), script)

    def note_script(self, script: Script) -> None:
        """A script is about to be run here."""


def _callbacks(protocol: int | None) -> dict[str, Callable[..., Any]]:
    found = {name.upper(): call for name, call in get_response_callbacks(protocol, legacy_responses=True).items()}
    return found | {name: checked_page(found[name]) for name in _PAGED}
