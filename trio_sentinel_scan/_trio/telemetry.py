"""Spans and metrics by OpenTelemetry, where the application has set it up; without it, nothing, not even an import.

Whether it is there is looked up once, when a client is opened. No span here is ever made the current one: an operation
has no children, and a scan's span lives in several tasks.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._core import telemetry as core
from .._version import __version__
from .streams import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Span, Tracer

    from .._core.identity import Address
    from .._core.summary import Restart, ScanSummary
    from .._core.topology_events import TopologyEvent
    from .._core.topology_state import TopologyState

__all__ = ["ScanTelemetry", "Telemetry", "find_telemetry"]

T = TypeVar("T")

_SCOPE = "trio_sentinel_scan"


class Telemetry:
    """What one client tells: each of its operations, its connections, its scans, and what happens to its service."""

    def __init__(self, tracer: Tracer, meter: Meter, *, db: int, where: Callable[[], Address]) -> None:
        """`where` gives the address of the server that operations go to at the moment."""
        self._tracer = tracer
        self._db = db
        self._where = where
        # (Not `trio.current_time`: whoever calls from another loop is to be told of that by what it calls.)
        self._now = clock()
        self._duration = meter.create_histogram(
            core.OPERATION_DURATION,
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=core.DURATION_BOUNDARIES,
        )
        self._connections = meter.create_up_down_counter(
            core.CONNECTION_COUNT,
            unit="{connection}",
            description="The number of connections that are currently open.",
        )
        self._restarts = meter.create_counter(
            core.SCAN_RESTARTS, unit="{restart}", description="Passes of scans that became void."
        )
        self._topology = meter.create_counter(
            core.TOPOLOGY_EVENTS, unit="{event}", description="What happened to the service, by kind."
        )

    def observing(
        self,
        execute: Callable[..., Awaitable[Any]],
        address_for: Callable[[tuple[Any, ...]], Address] | None = None,
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """`execute_command`, with a span and a duration for each command.

        `address_for` says which server a command goes to at the moment, if that is not the same for all.
        """

        def execute_command(*args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
            where = None if address_for is None else partial(address_for, args)
            return self.operation(core.operation_name(args), execute(*args, **options), where=where)

        return execute_command

    async def operation(
        self,
        name: str,
        work: Awaitable[T],
        *,
        batch_size: int | None = None,
        where: Callable[[], Address] | None = None,
    ) -> T:
        """Await `work`, the operation of this name; `batch_size` for one that is made of several."""
        where = where or self._where
        address = where()
        said: core.Attributes = {"db.operation.name": name, **core.server_attributes(address, self._db)}
        span = self._start(name, said if batch_size is None else {**said, "db.operation.batch.size": batch_size})
        started = self._now()
        try:
            return await work
        except BaseException as error:
            failure = core.failure_attributes(error)
            _fail(span, error, failure)
            said |= failure
            raise
        finally:
            span.set_attributes(core.peer_attributes(where()))
            span.end()
            self._duration.record(self._now() - started, said)

    def connection_opened(self, address: Address) -> Callable[[], None]:
        """A connection to a data node was made; what is returned is to be called when it is closed."""
        said = core.pool_attributes(address, self._db)
        self._connections.add(1, said)
        return lambda: self._connections.add(-1, said)

    def scan(self, command: str, address: Address | None = None) -> ScanTelemetry:
        """A scan begins, by SCAN, HSCAN, SSCAN or ZSCAN, at `address` if that is not where operations go."""
        where = self._where() if address is None else address
        said: core.Attributes = {"db.operation.name": command, **core.server_attributes(where, self._db)}
        return ScanTelemetry(self._start(command, said), lambda: self._restarts.add(1, said))

    def put(self, events: Iterable[TopologyEvent]) -> None:
        """These have happened to the service."""
        for event in events:
            self._topology.add(1, {core.TOPOLOGY_EVENT: type(event).__name__})

    def end(self, state: TopologyState) -> None:
        """The client is closing."""

    def _start(self, name: str, attributes: core.Attributes) -> Span:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415 (nobody else pays for it)

        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)


class ScanTelemetry:
    """One scan's span."""

    def __init__(self, span: Span, count_restart: Callable[[], None]) -> None:
        self._span = span
        self._count_restart = count_restart

    def restarted(self, restart: Restart) -> None:
        """It begins again."""
        self._span.add_event(core.RESTART, core.restart_attributes(restart))
        self._count_restart()

    def ended(self, summary: ScanSummary, error: BaseException | None) -> None:
        """It is over, complete or not."""
        if error is not None:
            _fail(self._span, error, core.failure_attributes(error))
        self._span.set_attributes(core.scan_attributes(summary))
        self._span.end()


def find_telemetry(*, db: int, where: Callable[[], Address]) -> Telemetry | None:
    """Something to tell to; None where OpenTelemetry is not installed, or the application has not set it up."""
    if "opentelemetry" not in sys.modules:
        # Whoever sets it up imports it.
        return None
    try:
        from opentelemetry import metrics, trace  # noqa: PLC0415 (only where it is in use)
    except ImportError:
        # Some other part of it is there.
        return None
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not (_is_set_up(tracers) or _is_set_up(meters)):
        return None
    tracer, meter = tracers.get_tracer(_SCOPE, __version__), meters.get_meter(_SCOPE, __version__)
    return Telemetry(tracer, meter, db=db, where=where)


def _is_set_up(provider: object) -> bool:
    # The API has stand-ins for a provider that nobody has set: it does not export their classes.
    name = type(provider).__name__
    return "Proxy" not in name and "NoOp" not in name


def _fail(span: Span, error: BaseException, failure: core.Attributes) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 (as above)

    span.set_attributes(failure)
    if isinstance(error, Exception):
        # To be cancelled is no failure of the server's, nor of ours.
        span.set_status(Status(StatusCode.ERROR, str(failure["error.type"])))
