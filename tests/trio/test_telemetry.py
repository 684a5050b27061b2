"""OpenTelemetry is told of commands, connections, scans and the service, if the application has set it up."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from redis import exceptions as redis_errors

from tests.trio.fakes import (
    COUNT,
    SERVICE,
    SILENCE,
    Error,
    FakeCluster,
    Network,
    Reply,
    Service,
    User,
    Value,
    on_mock_time,
    settled,
    sweep,
)
from tests.trio.test_other_loops import errors_of
from trio_sentinel_scan import (
    ClusterClient,
    CommandOutcomeUnknown,
    KeysInDifferentSlots,
    RedisClient,
    ScanInterrupted,
    SentinelClient,
    WrongEventLoop,
)
from trio_sentinel_scan._core.telemetry import TOPOLOGY_EVENTS

pytestmark = pytest.mark.trio(run=on_mock_time)


class Told:
    """What has been told: the spans that have ended, and the points of each metric."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """The only one of this name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def points(self, metric: str) -> list[tuple[Mapping[str, Any], float]]:
        """The attributes and the value (of a histogram, the count) of each of its series."""
        data = self._reader.get_metrics_data()
        found: list[tuple[Mapping[str, Any], float]] = []
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for told in (told for told in scope.metrics if told.name == metric):
                    for point in told.data.data_points:
                        assert isinstance(point, HistogramDataPoint | NumberDataPoint)
                        value = point.count if isinstance(point, HistogramDataPoint) else point.value
                        found.append((dict(point.attributes or {}), value))
        return found

    def everything(self) -> str:
        """All that was told, as text."""
        data = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + (data.to_json() if data is not None else "")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """As an application sets it up, but for this test alone."""
    told = Told()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: told.tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: told.meters)
    return told


# ---- a cluster ---------------------------------------------------------------------------------------------------


async def test_a_clusters_command_tells_the_node_that_it_goes_to(told: Told, network: Network) -> None:
    cluster = FakeCluster(network)
    async with ClusterClient(cluster.addresses) as client:
        key = next(b"%d" % n for n in range(100) if cluster.of(b"%d" % n) is cluster.hosts[2])
        await client.set(key, "value")
        await client.ping()
        with pytest.raises(KeysInDifferentSlots):
            await client.mget("a", "b")
        pipe = client.pipeline()
        assert await pipe.get(key).set("other", 1).execute() == [b"value", True]
    attributes = told.span("SET").attributes
    assert attributes is not None
    assert (attributes["server.port"], attributes["network.peer.port"]) == (7002, 7002)
    assert told.span("PING").status.status_code is StatusCode.UNSET
    assert told.span("MGET").status.status_code is StatusCode.ERROR
    batch = told.span("PIPELINE").attributes
    assert batch is not None
    assert batch["db.operation.batch.size"] == 2
    assert all(value == 0 for _, value in told.points("db.client.connection.count"))


async def test_the_scan_of_a_cluster_is_one_span(told: Told, network: Network) -> None:
    """However many nodes it is of: with its restarts and whose they were; the lanes' connections are counted."""
    cluster = FakeCluster(network)
    for number in range(300):
        cluster.of(b"key:%d" % number).program.put(0, b"key:%d" % number, Value(b"value"))
    cluster.hosts[0].tap("SCAN", skip=1, before=cluster.hosts[0].restart)
    async with ClusterClient(cluster.addresses) as client:
        connections = sum(value for _, value in told.points("db.client.connection.count"))
        async with client.open_scan(count=10) as pages:
            await pages.receive()
            assert sum(value for _, value in told.points("db.client.connection.count")) > connections
            async for _ in pages:
                pass
    span = told.span("SCAN")
    assert span.attributes is not None
    assert span.attributes["trio_sentinel_scan.scan.complete"] is True
    assert span.attributes["db.response.returned_rows"] == pages.summary.keys
    assert len(span.events) == len(pages.summary.restarts) >= 1
    for event, restart in zip(span.events, pages.summary.restarts, strict=True):
        assert event.attributes is not None
        assert event.attributes["trio_sentinel_scan.scan.node"] == restart.node
    [(_, restarts)] = told.points("trio_sentinel_scan.scan.restarts")
    assert restarts == len(pages.summary.restarts)
    assert all(value == 0 for _, value in told.points("db.client.connection.count"))


async def test_the_scan_of_a_cluster_that_fails(told: Told, network: Network) -> None:
    cluster = FakeCluster(network)
    for number in range(300):
        cluster.of(b"key:%d" % number).program.put(0, b"key:%d" % number, Value(b"value"))
    cluster.hosts[0].tap("SCAN", skip=1, before=cluster.hosts[0].restart)
    async with ClusterClient(cluster.addresses) as client, client.open_scan(count=10, on_failover="raise") as pages:
        with pytest.raises(ScanInterrupted):
            async for _ in pages:
                pass
    span = told.span("SCAN")
    assert span.attributes is not None
    assert span.attributes["trio_sentinel_scan.scan.complete"] is False
    assert span.status.status_code is StatusCode.ERROR


async def test_a_collection_in_a_cluster_tells_the_node_that_has_it(told: Told, network: Network) -> None:
    cluster = FakeCluster(network)
    key = next(b"%d" % n for n in range(100) if cluster.of(b"%d" % n) is cluster.hosts[2])
    cluster.hosts[2].program.put(0, key, Value(b"", "hash", {b"field": b"value"}))
    async with ClusterClient(cluster.addresses) as client, client.open_hscan(key) as pages:
        async for _ in pages:
            pass
    attributes = told.span("HSCAN").attributes
    assert attributes is not None
    assert attributes["server.port"] == 7002
    assert attributes["db.response.returned_rows"] == 1
    assert all(value == 0 for _, value in told.points("db.client.connection.count"))


# ---- commands ---------------------------------------------------------------------------------------------------


async def test_a_command_is_a_span_and_a_duration(told: Told, network: Network) -> None:
    service = Service(network)
    service.write([b"key"], db=2)
    service.master.delay = 0.25
    async with RedisClient(service.master.address, db=2) as client:
        assert await client.get("key") == b"value of key"
    span = told.span("GET")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    operation = {
        "db.system.name": "redis",
        "db.namespace": "2",
        "db.operation.name": "GET",
        "server.address": "10.0.0.1",
        "server.port": 6379,
    }
    assert span.attributes == {**operation, "network.peer.address": "10.0.0.1", "network.peer.port": 6379}
    assert told.points("db.client.operation.duration") == [(operation, 1)]


async def test_a_command_that_a_server_refuses(told: Told, network: Network) -> None:
    service = Service(network)
    service.master.tap("GET", instead=Reply(Error("WRONGTYPE Operation against a key")))
    async with RedisClient(service.master.address) as client:
        with pytest.raises(redis_errors.ResponseError):
            await client.get("key")
    span = told.span("GET")
    assert span.attributes is not None
    assert span.attributes["db.response.status_code"] == span.attributes["error.type"] == "WRONGTYPE"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "WRONGTYPE")
    [(attributes, count)] = told.points("db.client.operation.duration")
    assert (attributes["error.type"], count) == ("WRONGTYPE", 1)


@pytest.mark.usefixtures("told")
async def test_a_command_of_another_loop_is_refused_by_what_it_calls(network: Network) -> None:
    """And not by a clock that telemetry has asked before it."""
    service = Service(network, keys=3)
    async with SentinelClient(service.addresses, SERVICE) as client:
        for use in (lambda: client.get("key:1"), lambda: client.pipeline().get("key:1").execute()):
            errors = errors_of(use)
            assert [type(error) for error in errors] == [WrongEventLoop, WrongEventLoop], errors


async def test_a_command_that_is_cancelled_is_no_failure(told: Told, network: Network) -> None:
    service = Service(network)
    service.master.tap("GET", instead=SILENCE)
    async with RedisClient(service.master.address) as client:
        with trio.move_on_after(1):
            await client.get("key")
    span = told.span("GET")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["error.type"] == "trio.Cancelled"


async def test_a_command_that_waits_through_a_failover_tells_whom_it_reached(told: Told, network: Network) -> None:
    service = Service(network)
    async with SentinelClient(service.addresses, SERVICE) as client:
        service.master.tap("GET", before=service.fail_over)
        await client.get("key")
    attributes = told.span("GET").attributes
    assert attributes is not None
    assert (attributes["server.address"], attributes["network.peer.address"]) == ("10.0.0.1", "10.0.0.2")
    events = {point["trio_sentinel_scan.topology.event"]: n for point, n in told.points(TOPOLOGY_EVENTS)}
    assert events == {"MasterChange": 1, "ReplicaRemove": 1}


async def test_an_operation_of_several_commands(told: Told, network: Network) -> None:
    """What a pipeline tells."""
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        telemetry = client._source.telemetry
        assert telemetry is not None
        await telemetry.operation("PIPELINE", client._shared.open(), batch_size=3)
    attributes = told.span("PIPELINE").attributes
    assert attributes is not None
    assert attributes["db.operation.batch.size"] == 3
    assert all("db.operation.batch.size" not in point for point, _ in told.points("db.client.operation.duration"))


async def test_a_pipeline_is_one_operation(told: Told, network: Network) -> None:
    """Whether or not it shares a connection; a blocking command is a command, and told once."""
    service = Service(network)
    async with SentinelClient(service.addresses, SERVICE) as client:
        await client.pipeline().set("secret", 1).incr("n").execute()
        await client.pipeline(transaction=False).select(0).get("secret").execute()
        await client.blpop("queue", timeout=1)
    pipelines = [span for span in told.spans if span.name == "PIPELINE"]
    assert [(span.attributes or {})["db.operation.batch.size"] for span in pipelines] == [4, 2]
    assert told.span("BLPOP").status.status_code is StatusCode.UNSET
    assert "secret" not in told.everything()


async def test_the_callers_span_is_the_parent(told: Told, network: Network) -> None:
    """And stays the current one."""
    service = Service(network)
    tracer = told.tracers.get_tracer("test")
    async with RedisClient(service.master.address) as client:
        with tracer.start_as_current_span("request") as request:
            await client.get("key")
            assert trace.get_current_span() is request
    parent = told.span("GET").parent
    assert parent is not None
    assert parent.span_id == request.get_span_context().span_id


# ---- connections ------------------------------------------------------------------------------------------------


async def test_connections_are_counted_while_they_are_open(told: Told, network: Network) -> None:
    service = Service(network, keys=20)
    pool = "db.client.connection.pool.name"

    def count() -> dict[str, float]:
        return {point[pool]: value for point, value in told.points("db.client.connection.count")}

    async with SentinelClient(service.addresses, SERVICE) as client:
        assert count() == {"10.0.0.1:6379/0": 1}
        async with client.open_scan() as pages:
            await pages.receive()
            assert count() == {"10.0.0.1:6379/0": 2}
        service.fail_over()
        await client.ping()
        await settled()
        assert count() == {"10.0.0.1:6379/0": 0, "10.0.0.2:6379/0": 1}
    assert count() == {"10.0.0.1:6379/0": 0, "10.0.0.2:6379/0": 0}


# ---- scans ------------------------------------------------------------------------------------------------------


async def test_a_scan_is_a_span_with_its_restarts(told: Told, network: Network) -> None:
    service = Service(network, keys=500)
    async with (
        SentinelClient(service.addresses, SERVICE) as client,
        client.open_scan(count=COUNT, segments=1) as pages,
    ):
        await pages.receive()
        service.fail_over()
        async for _ in pages:
            pass
    span = told.span("SCAN")
    assert span.attributes is not None
    assert span.attributes["trio_sentinel_scan.scan.complete"] is True
    assert span.attributes["db.response.returned_rows"] == pages.summary.keys
    assert span.status.status_code is StatusCode.UNSET
    [restart] = span.events
    assert restart.attributes is not None
    assert str(restart.attributes["trio_sentinel_scan.scan.reason"]).startswith("MASTER_CHANGE")
    [(_, restarts)] = told.points("trio_sentinel_scan.scan.restarts")
    assert restarts == 1


async def test_a_collections_scan_is_a_span_too(told: Told, network: Network) -> None:
    """By the name of its command; the key is told to nobody."""
    service = Service(network)
    service.master.program.put(0, b"secret", Value(b"", "hash", {b"field": b"value"}))
    async with RedisClient(service.master.address) as client, client.open_hscan("secret") as pages:
        async for _ in pages:
            pass
    span = told.span("HSCAN")
    assert span.attributes is not None
    assert span.attributes["db.operation.name"] == "HSCAN"
    assert "secret" not in str(dict(span.attributes))


async def test_a_scan_that_fails(told: Told, network: Network) -> None:
    service = Service(network, keys=500)
    async with (
        SentinelClient(service.addresses, SERVICE) as client,
        client.open_scan(count=COUNT, on_failover="raise") as pages,
    ):
        await pages.receive()
        service.fail_over()
        await settled()
        with pytest.raises(ScanInterrupted):
            await pages.receive()
    span = told.span("SCAN")
    assert span.attributes is not None
    assert span.attributes["error.type"] == f"{ScanInterrupted.__module__}.ScanInterrupted"
    assert span.attributes["trio_sentinel_scan.scan.complete"] is False
    assert span.status.status_code is StatusCode.ERROR


# ---- what is not told -------------------------------------------------------------------------------------------


async def test_no_secret_is_told(told: Told, network: Network) -> None:
    """No key, value or password, through good times and bad."""
    service = Service(network)
    service.write([b"hunter2:key"])
    for server in service.servers:
        server.program.users["default"] = User("hunter2")
    async with SentinelClient(service.addresses, SERVICE, password="hunter2", failover_timeout=1) as client:
        await client.set("hunter2:key", "hunter2:value")
        for words in (("GET hunter2",), ("hunter2:key",), ("CLIENT", "hunter2:key"), ("OBJECT HUNTER2:KEY",)):
            service.master.tap(words[0].split()[0], instead=Reply(Error("ERR hunter2")))
            with pytest.raises(redis_errors.RedisError):
                await client.execute_command(*words)
        await sweep(client, match="hunter2:*")
        service.master.tap("INCRBY", before=service.master.kill)
        with pytest.raises(CommandOutcomeUnknown):
            await client.incr("hunter2:key")
    assert len(told.spans) >= 6
    assert "hunter2" not in told.everything().lower()


async def test_nothing_is_told_where_nobody_has_set_it_up(network: Network) -> None:
    """It is installed here, and a command takes no way round."""
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        assert client._source.telemetry is None
        assert "execute_command" not in vars(client)


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.trace"])
async def test_nor_where_it_is_not_installed(
    told: Told, network: Network, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    if missing == "opentelemetry":
        monkeypatch.delitem(sys.modules, missing)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delattr("opentelemetry.trace")
    service = Service(network)
    async with RedisClient(service.master.address) as client:
        await client.ping()
    assert told.spans == []


async def test_a_client_that_is_closed_tells_no_more(told: Told, network: Network) -> None:
    service = Service(network)
    client = RedisClient(service.master.address)
    for _ in range(2):
        async with client:
            await client.ping()
        assert "execute_command" not in vars(client)
    assert [span.name for span in told.spans] == ["PING", "PING"]


@pytest.mark.trio(run=trio.run)
async def test_it_is_not_imported_for_nothing() -> None:
    """By us: whoever sets it up has imported it. (redis-py, for one, looks for it.)"""
    program = (
        "import sys, redis, trio\n"
        "def imported(): return [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "before = imported()\n"
        "import trio_sentinel_scan as it\n"
        "async def main():\n"
        "    try:\n"
        "        async with it.RedisClient('/nowhere/redis.sock'): pass\n"
        "    except it.ServerConnectionError: pass\n"
        "trio.run(main)\n"
        "assert imported() == before\n"
    )
    await trio.run_process([sys.executable, "-c", program])
