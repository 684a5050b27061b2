"""What cannot be asked for is refused by an error that names the argument, before a single byte is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.real.scenes import open_booth
from trio_sentinel_scan import (
    ClientClosed,
    CompactSeen,
    ConfigError,
    RedisClient,
    RoleMismatch,
    SentinelClient,
    SpillingSeen,
    connect,
)
from trio_sentinel_scan._core.checkpoint import Mark, PassFacts, Scope
from trio_sentinel_scan.testing import LocalSentinel

if TYPE_CHECKING:
    import trio

# Of a scan of everything, that had not found its server yet.
CHECKPOINT = Mark(PassFacts(Scope(0, None, None), 0)).text()
SCANS: list[tuple[str, dict[str, Any]]] = [
    ("match", {"match": 7}),
    ("match", {"match": ["a*", b"b*"]}),
    ("match", {"match": bytearray(b"a*")}),
    ("count", {"count": 0}),
    ("count", {"count": -1}),
    ("count", {"count": 2.5}),
    ("count", {"count": True}),
    ("count", {"count": "100"}),
    ("type_", {"type_": "nosuch"}),
    ("type_", {"type_": ""}),
    ("type_", {"type_": b"string"}),
    ("cursor", {"cursor": -1}),
    ("cursor", {"cursor": 2**64}),
    ("cursor", {"cursor": "+5"}),
    ("cursor", {"cursor": "0x10"}),
    ("cursor", {"cursor": " 0"}),
    ("cursor", {"cursor": ""}),
    ("cursor", {"cursor": "abc"}),
    ("cursor", {"cursor": None}),
    ("cursor", {"cursor": 1.0}),
    ("on_failover", {"on_failover": "resume"}),
    ("on_failover", {"on_failover": None}),
    ("max_restarts", {"max_restarts": -1}),
    ("max_restarts", {"max_restarts": None}),
    ("prefetch", {"prefetch": -1}),
    ("prefetch", {"prefetch": 1.5}),
    ("certify", {"certify": "nobody"}),
    ("certify", {"certify": None}),
    ("read_from", {"read_from": "slave"}),
    ("read_from", {"read_from": "replica"}),
    ("fallback", {"fallback": "replica"}),
    ("fallback", {"fallback": "master"}),
    ("segments", {"segments": 0}),
    ("segments", {"segments": "all"}),
    ("segments", {"segments": 2, "cursor": 5}),
    ("segments", {"segments": 2, "extra_args": ["node"]}),
    ("duty", {"duty": 0}),
    ("duty", {"duty": 1.5}),
    ("page_size", {"page_size": 0}),
    ("dedupe", {"dedupe": None}),
    ("dedupe", {"dedupe": "exact"}),
    ("dedupe", {"dedupe": SpillingSeen}),
    ("dedupe", {"dedupe": True, "resume": CHECKPOINT}),
    ("dedupe", {"dedupe": CompactSeen(), "resume": CHECKPOINT}),
    ("resume", {"resume": ""}),
    ("resume", {"resume": b"tss1.AAAA"}),
    ("resume", {"resume": "tss9.AAAA"}),
    ("resume", {"resume": CHECKPOINT[:-1]}),
    ("resume", {"resume": CHECKPOINT, "match": "a*"}),
    ("cursor", {"cursor": 5, "resume": CHECKPOINT}),
    ("with_", {"with_": "type"}),
    ("with_", {"with_": None}),
    ("with_", {"with_": ["type", "size"]}),
    ("with_", {"with_": ["type", "type"]}),
    ("extra_args", {"extra_args": "node"}),
    ("extra_args", {"extra_args": [7]}),
    ("extra_args", {"extra_args": [""]}),
    ("extra_args", {"extra_args": ["count", "10"]}),
    ("hash_seed_shared", {"hash_seed_shared": 1}),
    ("hash_seed_shared", {"hash_seed_shared": True, "extra_args": ["node"]}),
]


@pytest.mark.trio
async def test_open_scan(nursery: trio.Nursery) -> None:
    async with open_booth(nursery) as booth, booth.client() as client:
        received = booth.proxy.bytes_received
        for argument, options in SCANS:
            with pytest.raises(ConfigError, match=f"^{argument}: ") as caught:
                client.open_scan(**options)
            assert caught.value.argument == argument
            assert isinstance(caught.value, ValueError)
        # A store that went with its block.
        with SpillingSeen() as store:
            client.open_scan(dedupe=store)
        with pytest.raises(ConfigError, match=r"^dedupe: the store of seen keys is closed"):
            client.open_scan(dedupe=store)
        nonsense: dict[str, Any] = {"resume_at": "a text of last week"}
        with pytest.raises(TypeError, match="resume_at"):
            client.open_scan(**nonsense)
        await client.ping()
        assert booth.proxy.bytes_received - received == len(b"*1\r\n$4\r\nPING\r\n")
    with pytest.raises(ClientClosed, match="not open"):
        client.open_scan()
    # A wrong argument is the more useful thing to hear of.
    with pytest.raises(ConfigError, match="count"):
        client.open_scan(count=0)


@pytest.mark.parametrize(
    "argument, options",
    [
        ("db", {"db": -1}),
        ("db", {"db": "0"}),
        ("password", {"password": b"secret"}),
        ("password", {"username": "somebody"}),
        ("username", {"username": b"somebody", "password": "secret"}),
        ("response_timeout", {"response_timeout": 0}),
        ("response_timeout", {"response_timeout": -1.0}),
        ("failover_timeout", {"failover_timeout": "soon"}),
        ("decode_responses", {"decode_responses": "yes"}),
        ("encoding", {"encoding": "klingon"}),
        ("protocol", {"protocol": 4}),
        ("ssl", {"ssl": "yes"}),
        ("client_name", {"client_name": "two words"}),
    ],
)
def test_clients(argument: str, options: dict[str, Any]) -> None:
    for make in (
        lambda: RedisClient(("127.0.0.1", 1), **options),
        lambda: SentinelClient([("127.0.0.1", 1)], "mymaster", **options),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.argument == argument
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        ("127.0.0.1",),
        ("127.0.0.1", 0),
        ("127.0.0.1", 65536),
        ("127.0.0.1", "6379"),
        ("", 6379),
        ("two hosts", 6379),
        "127.0.0.1:",
        "127.0.0.1:http",
        "[::1:6379",
        7,
        None,
        b"127.0.0.1:6379",
    ],
)
def test_addresses(address: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisClient(address)
    assert caught.value.argument == "address"
    with pytest.raises(ConfigError) as caught:
        SentinelClient([address], "mymaster")
    assert caught.value.argument == "sentinels"


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("sentinels", ([], "mymaster")),
        ("sentinels", ("127.0.0.1:26379", "mymaster")),
        ("sentinels", (None, "mymaster")),
        ("service", ([("127.0.0.1", 26379)], "my master")),
        ("service", ([("127.0.0.1", 26379)], "")),
        ("service", ([("127.0.0.1", 26379)], "my\nmaster")),
        ("service", ([("127.0.0.1", 26379)], b"mymaster")),
    ],
)
def test_services(argument: str, arguments: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        SentinelClient(*arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "url, told",
    [
        ("http://127.0.0.1", "scheme"),
        ("127.0.0.1:6379", "scheme"),
        ("redis:/127.0.0.1", "scheme"),
        ("sentinel://127.0.0.1/mymaster", "scheme"),
        ("redis+sentinel://127.0.0.1", "service"),
        ("redis+sentinel://127.0.0.1/", "service"),
        ("redis+sentinel://127.0.0.1,,127.0.0.2/mymaster", "empty member"),
        ("redis+sentinel:///mymaster", "empty member"),
        ("redis+sentinel://127.0.0.1:port/mymaster", "port"),
        ("redis+sentinel://[::1/mymaster", "IPv6"),
        ("redis+sentinel://127.0.0.1/my%20master", "white space"),
        ("redis+sentinel://127.0.0.1/mymaster/first", "database"),
        ("redis+sentinel://127.0.0.1/mymaster?nosuch=1", "nosuch"),
        ("redis://127.0.0.1,127.0.0.2/0", "redis[+]sentinel"),
        ("redis://127.0.0.1/-1", "database"),
        ("redis://127.0.0.1/0?db=one", "db"),
        ("redis://:secret@127.0.0.1/0#fragment", "fragment"),
        ("redis://127.0.0.1:70000", "port"),
        ("unix://relative/path", "absolute"),
        (b"redis://127.0.0.1", "str"),
    ],
)
def test_urls(url: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        connect(url)
    assert caught.value.argument in {"url", "service", "db"}
    assert "secret" not in str(caught.value)


@pytest.mark.trio
async def test_a_sentinel_is_no_data_node() -> None:
    async with LocalSentinel(replicas=0, sentinels=1) as service:
        with pytest.raises(RoleMismatch, match="Sentinel"):
            async with RedisClient(service.sentinels[0]):
                pytest.fail("it has no keys")


@pytest.mark.trio
async def test_a_database_that_is_not_there(nursery: trio.Nursery) -> None:
    """Only the server knows how many it has."""
    async with open_booth(nursery) as booth:
        with pytest.raises(ConfigError, match=r"^db: .*refuses to select") as caught:
            async with RedisClient(booth.server.address, db=4711):
                pytest.fail("there is no such database")
        assert caught.value.argument == "db"
