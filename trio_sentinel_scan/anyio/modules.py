# Generated from _trio/modules.py by `nox -s anyio`: change that file, never this one.
"""The commands of server modules: JSON, search, time series, Bloom filters and their like, vector sets. redis-py's."""

from __future__ import annotations

from collections.abc import Callable
from json import JSONDecoder, JSONEncoder
from typing import TYPE_CHECKING, Any, TypeVar, cast

from redis.asyncio import Redis
from redis.commands.redismodules import AsyncRedisModuleCommands

from .._core.errors import ConfigError

if TYPE_CHECKING:
    from redis.commands.bf import AsyncBFBloom, AsyncCFBloom, AsyncCMSBloom, AsyncTDigestBloom, AsyncTOPKBloom
    from redis.commands.json import AsyncJSON
    from redis.commands.search import AsyncSearch
    from redis.commands.timeseries import AsyncTimeSeries
    from redis.commands.vectorset import AsyncVectorSet

    from .command_set import CommandSet

__all__ = ["ModuleCommands"]


class _Pool:
    """What redis-py's modules look at of a pool. There is no connection in it."""

    def __init__(self, owner: CommandSet) -> None:
        self.connection_kwargs: dict[str, Any] = owner.get_connection_kwargs()
        self.get_encoder: Callable[[], Any] = owner.get_encoder


class _AsRedis(Redis):
    """One of ours for redis-py's modules, which learn the protocol in use only from its own class of client."""

    def __init__(self, owner: CommandSet, *, is_all_redis_pys: bool = True) -> None:
        """`is_all_redis_pys`: nothing of a caller's works within the callbacks that redis-py will set here."""
        self.connection_pool = cast("Any", _Pool(owner))
        # redis-py's finaliser warns of one that is left open; there never is one.
        self.connection = None
        self.execute_command: Any = cast("Any", owner).execute_command
        self.set_response_callback: Any = (
            owner.set_redis_pys_callback if is_all_redis_pys else owner.set_response_callback
        )
        self.response_callbacks: Any = owner.response_callbacks
        self.get_encoder: Any = owner.get_encoder
        self.pipeline: Any = getattr(owner, "pipeline", None)


class ModuleCommands(AsyncRedisModuleCommands):
    """redis-py's namespaces, each of which sends its commands through us. In a pipeline they are buffered."""

    def json(self, encoder: JSONEncoder | None = None, decoder: JSONDecoder | None = None) -> AsyncJSON:  # type: ignore[override]  # redis-py's own override
        """The JSON module's commands; `encoder` and `decoder` are json's, for the documents."""
        redis_pys = _AsRedis(cast("CommandSet", self), is_all_redis_pys=encoder is None and decoder is None)
        return _without_pipeline(
            AsyncRedisModuleCommands.json(redis_pys, encoder or JSONEncoder(), decoder or JSONDecoder()), "json"
        )

    def ft(self, index_name: str = "idx") -> AsyncSearch:
        """The search module's commands, for one index."""
        namespace = AsyncRedisModuleCommands.ft(self._as_redis(), index_name)
        return _without_pipeline(_with_sound_results(namespace, cast("CommandSet", self)), "ft")

    def ts(self) -> AsyncTimeSeries:  # type: ignore[override]  # redis-py's own override
        """The time series module's commands."""
        return _without_pipeline(AsyncRedisModuleCommands.ts(self._as_redis()), "ts")

    def bf(self) -> AsyncBFBloom:  # type: ignore[override]  # redis-py's own override
        """The commands for Bloom filters."""
        return AsyncRedisModuleCommands.bf(self._as_redis())

    def cf(self) -> AsyncCFBloom:  # type: ignore[override]  # redis-py's own override
        """The commands for cuckoo filters."""
        return AsyncRedisModuleCommands.cf(self._as_redis())

    def cms(self) -> AsyncCMSBloom:  # type: ignore[override]  # redis-py's own override
        """The commands for count-min sketches."""
        return AsyncRedisModuleCommands.cms(self._as_redis())

    def topk(self) -> AsyncTOPKBloom:  # type: ignore[override]  # redis-py's own override
        """The commands for lists of the most frequent items."""
        return AsyncRedisModuleCommands.topk(self._as_redis())

    def tdigest(self) -> AsyncTDigestBloom:  # type: ignore[override]  # redis-py's own override
        """The commands for t-digest sketches."""
        return AsyncRedisModuleCommands.tdigest(self._as_redis())

    def vset(self) -> AsyncVectorSet:  # type: ignore[override]  # redis-py's own override
        """The commands for vector sets."""
        return AsyncRedisModuleCommands.vset(self._as_redis())

    def _as_redis(self) -> _AsRedis:
        return _AsRedis(cast("CommandSet", self))


NamespaceT = TypeVar("NamespaceT")


def _with_sound_results(search: AsyncSearch, owner: CommandSet) -> AsyncSearch:
    # What redis-py does there after its callbacks, and trips over as they do.
    parse = cast("Any", search)._parse_results  # noqa: SLF001 (there is no other way to it)

    def parse_results(name: str, reply: Any, **options: Any) -> Any:
        return owner.made_of_reply(name, parse, reply, **options)

    setattr(search, "_parse_results", parse_results)  # noqa: B010 (its type has another)
    return search


def _without_pipeline(namespace: NamespaceT, name: str) -> NamespaceT:
    # redis-py's would take a connection of its own from the pool that is none, and wait for it without the event loop.
    def pipeline(*_args: Any, **_options: Any) -> Any:
        raise ConfigError("pipeline", f"use pipe = client.pipeline(), and pipe.{name}() for the module's commands")

    setattr(namespace, "pipeline", pipeline)  # noqa: B010 (its type has another)
    return namespace
