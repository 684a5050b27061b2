"""What a client is given: by URL or by argument, checked before anything is sent."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tests.trio.fakes import SERVICE
from trio_sentinel_scan import ConfigError, SentinelClient, connect


def test_tls_by_url_and_by_argument() -> None:
    """The scheme says that there is to be TLS, and a context of the caller's says how."""
    mine = ssl.create_default_context()
    client = connect("rediss+sentinel://10.0.1.1/mymaster", ssl=mine)
    assert client._settings.endpoint.ssl is mine
    assert isinstance(client, SentinelClient)
    assert client._monitor._endpoint.ssl is not mine
    assert isinstance(client._monitor._endpoint.ssl, ssl.SSLContext)
    assert connect("redis://10.0.0.1")._settings.endpoint.ssl is None
    with pytest.raises(ConfigError) as caught:
        connect("redis://10.0.0.1", ssl="yes")
    assert caught.value.argument == "ssl"
    with pytest.raises(ConfigError, match="the URL's scheme asks for TLS"):
        connect("rediss://10.0.0.1", ssl=False)


def test_an_option_that_no_client_has() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        connect("redis://10.0.0.1", nonsense=1)


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"sentinels": []}, "sentinels"),
        ({"service": "two words"}, "service"),
        ({"address_map": 7}, "address_map"),
        ({"sentinel_password": 7}, "sentinel_password"),
        ({"sentinel_ssl": 7}, "sentinel_ssl"),
        ({"db": -1}, "db"),
        ({"response_timeout": 0}, "response_timeout"),
        ({"wait_ready": "yes"}, "wait_ready"),
    ],
)
def test_an_argument_at_fault_is_named(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SentinelClient(**{"sentinels": [("10.0.1.1", 26379)], "service": SERVICE, **options})
    assert caught.value.argument == argument


@pytest.mark.parametrize("buffer", [0, -1, 1.5, "1", True, None])
def test_a_buffer_of_events_that_cannot_be(buffer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        SentinelClient([("10.0.1.1", 26379)], SERVICE).open_topology(buffer=buffer)
    assert caught.value.argument == "buffer"
