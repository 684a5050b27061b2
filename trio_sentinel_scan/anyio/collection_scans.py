# Generated from _trio/collection_scans.py by `nox -s anyio`: change that file, never this one.
"""Scans of one big hash, set or sorted set, with the promises of `open_scan`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from .._core.collection_options import CollectionScanOptions, checked_collection_options
from .scan import ScanPages, open_scan
from .sources import SentinelService

if TYPE_CHECKING:
    from .._core.collection import CollectionType
    from .._core.config import ClientSettings
    from .sources import SingleServer

__all__ = ["CollectionScans"]

T = TypeVar("T")


class CollectionScans:
    """What the clients have in common beside `open_scan`."""

    _source: SingleServer | SentinelService
    _settings: ClientSettings

    @overload
    def open_hscan(
        self,
        key: str | bytes | memoryview,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        no_values: Literal[False] = False,
        **options: Unpack[CollectionScanOptions],
    ) -> AbstractAsyncContextManager[ScanPages[tuple[Any, Any]]]: ...

    @overload
    def open_hscan(
        self,
        key: str | bytes | memoryview,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        no_values: bool,
        **options: Unpack[CollectionScanOptions],
    ) -> AbstractAsyncContextManager[ScanPages[Any]]: ...

    def open_hscan(
        self,
        key: str | bytes | memoryview,
        match: str | bytes | None = None,
        count: int | None = None,
        *,
        no_values: bool = False,
        **options: Unpack[CollectionScanOptions],
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Iterate a hash, without losing a field while masters fail over and servers restart.

        ::

            async with client.open_hscan("session:17") as pages:
                async for page in pages:
                    for field, value in page: ...

        The end of the iteration means that every field that was there all through the final pass was handed out at
        least once. Every other end is an exception, raised by the next receive: beside those of `open_scan`,
        `CollectionGone` if the hash was deleted, has expired or was lost meanwhile, and `CollectionChanged` if the key
        holds something else by now. A key that is not there from the beginning is an empty hash, as for redis-py;
        ``pages.summary.collection_size`` is 0 then. One that holds something else raises `ScanRefused`.

        - `match`: a glob-style pattern for fields, as for HSCAN's MATCH. `count`: as in `open_scan`.
        - `no_values`: hand out the fields alone, and have the server send no values. There is NOVALUES from Redis 7.4
          and Valkey 8.0 on; other servers raise `ScanRefused`.
        - `cursor`, `on_failover`, `max_restarts`, `prefetch`, `certify`, `segments`, `duty`, `page_size`, `dedupe`,
          `resume`: as in `open_scan`. `dedupe` goes by the field, and hands out the value that came with it first.

        A small hash comes as a whole, whatever `segments` is. Beside HSCAN, the client's user must be allowed HLEN.
        Raises ConfigError for an argument that cannot be, before anything is sent.
        """
        return self._open("hash", key, match, count, options, no_values=no_values)

    def open_sscan(
        self,
        key: str | bytes | memoryview,
        match: str | bytes | None = None,
        count: int | None = None,
        **options: Unpack[CollectionScanOptions],
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        """Iterate a set, without losing a member. Items are members; all else is as in `open_hscan`."""
        return self._open("set", key, match, count, options)

    def open_zscan(
        self,
        key: str | bytes | memoryview,
        match: str | bytes | None = None,
        count: int | None = None,
        **options: Unpack[CollectionScanOptions],
    ) -> AbstractAsyncContextManager[ScanPages[tuple[Any, float]]]:
        """Iterate a sorted set, without losing a member, in no order.

        Items are pairs of a member and its score, a float; all else is as in `open_hscan`, `dedupe` by the member.
        """
        return self._open("zset", key, match, count, options)

    def _open(
        self,
        type_: CollectionType,
        key: object,
        match: object,
        count: object,
        options: CollectionScanOptions,
        *,
        no_values: object = False,
    ) -> AbstractAsyncContextManager[ScanPages[Any]]:
        checked = checked_collection_options(
            type_,
            key,
            match=match,
            count=count,
            no_values=no_values,
            **options,
            has_sentinels=isinstance(self._source, SentinelService),
            encoding=self._settings.encoding,
            db=self._settings.endpoint.db,
        )
        self._check_open()
        return self._at_home(open_scan(checked, self._source))

    def _check_open(self) -> None:
        raise NotImplementedError

    def _at_home(self, block: AbstractAsyncContextManager[T]) -> AbstractAsyncContextManager[T]:
        raise NotImplementedError
