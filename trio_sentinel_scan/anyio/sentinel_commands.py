# Generated from _trio/sentinel_commands.py by `nox -s anyio`: change that file, never this one.
"""Commands for the Sentinels themselves, such as redis-py's `sentinel_masters`: one of them answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from .._core.command_fate import outcome_unknown
from .._core.errors import NoSentinelReachable, SentinelScanError

if TYPE_CHECKING:
    from .._core.commands import Command
    from .._core.config import ClientSettings
    from .._core.wire import Reply
    from .sentinel import SentinelMonitor

__all__ = ["ask_a_sentinel"]


async def ask_a_sentinel(monitor: SentinelMonitor, command: Command, settings: ClientSettings) -> tuple[Reply, int]:
    """The reply of the first Sentinel that gives one, and its protocol. Error replies are raised.

    Raises NoSentinelReachable, and CommandOutcomeUnknown if it is not known whether one has done what it was told.
    """
    problem: SentinelScanError | None = None
    for address in monitor.sentinels:
        try:
            connection = await monitor.connect(address)
        except SentinelScanError as error:
            problem = error
            continue
        try:
            connection.use_encoding(settings.encoding if settings.decode_responses else None, settings.encoding_errors)
            (reply,) = await connection.request(command.args)
        except SentinelScanError as error:
            if not command.only_reads:
                raise outcome_unknown([command], f"Sentinel {address}", error) from error
            problem = error
            continue
        finally:
            await connection.aclose()  # noqa: ASYNC102 (it is shielded, and takes no time)
        if isinstance(reply, RedisError):
            raise reply
        return reply, 2
    lines = "".join(f"\n  {address}: {status}" for address, status in monitor.describe().items())
    raise NoSentinelReachable(f"no Sentinel answered:{lines}", dict(monitor.describe())) from problem
