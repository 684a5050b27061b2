"""Which word counts when option, URL and environment disagree, and what the options mean to the client."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from trio_sentinel_scan import ClusterClient, ConfigError, RedisClient, SentinelClient
from trio_sentinel_scan.cli._scan import ScanOptions
from trio_sentinel_scan.cli._settings import Client, ServerOptions, has_password, make_client
from trio_sentinel_scan.cli._tls import TlsOptions

if TYPE_CHECKING:
    from pathlib import Path

    from trio_sentinel_scan._core.config import ClientSettings, Endpoint

PLAIN = TlsOptions()
SERVICE = "redis+sentinel://10.0.0.1,10.0.0.2/mymaster"
CLUSTER = "redis+cluster://10.0.0.1,10.0.0.2:7000"


def client_of(
    url: str, environment: dict[str, str] | None = None, *, tls: TlsOptions = PLAIN, **options: Any
) -> Client:
    return make_client(ServerOptions(url=url, **options), tls, environment or {})


def settings_of(url: str, environment: dict[str, str] | None = None, **options: Any) -> ClientSettings:
    return client_of(url, environment, **options)._settings


def sentinels_of(client: Client) -> Endpoint:
    assert isinstance(client, SentinelClient)
    return client._monitor._endpoint


def login_of(settings: ClientSettings) -> tuple[str | None, str | None]:
    return settings.endpoint.credentials.username, settings.endpoint.credentials.password


@pytest.mark.parametrize(
    "url, kind",
    [
        ("redis://10.0.0.1", RedisClient),
        ("unix:///run/redis.sock", RedisClient),
        (SERVICE, SentinelClient),
        (CLUSTER, ClusterClient),
    ],
)
def test_the_url_says_which_client(url: str, kind: type) -> None:
    assert type(client_of(url)) is kind


def test_the_servers_see_who_we_are() -> None:
    assert settings_of("redis://h").endpoint.client_name == "trio-sentinel-scan"
    assert settings_of("redis://h?client_name=nightly").endpoint.client_name == "nightly"


def test_the_password_is_the_environments() -> None:
    assert login_of(settings_of("redis://h", {"REDISCLI_AUTH": "env"})) == (None, "env")
    assert login_of(settings_of("redis://h", {"REDISCLI_AUTH": "env"}, user="alice")) == ("alice", "env")
    assert login_of(settings_of("redis://h", {"REDISCLI_AUTH": ""})) == (None, None)


def test_before_the_environments_the_urls_and_before_that_the_one_asked_for() -> None:
    environment = {"REDISCLI_AUTH": "env"}
    assert login_of(settings_of("redis://bob:url@h", environment)) == ("bob", "url")
    assert login_of(settings_of("redis://bob:url@h", environment, password="asked", user="alice")) == ("alice", "asked")


def test_the_sentinels_have_a_password_of_their_own() -> None:
    environment = {"REDISCLI_AUTH": "data", "REDISCLI_SENTINEL_AUTH": "sentinels"}
    client = client_of(SERVICE, environment)
    assert login_of(client._settings) == (None, "data")
    assert sentinels_of(client).credentials.password == "sentinels"
    client = client_of(SERVICE + "?sentinel_username=s&sentinel_password=url", environment)
    assert sentinels_of(client).credentials.password == "url"
    assert login_of(settings_of("redis://h", environment)) == (None, "data")


def test_a_cluster_has_the_data_nodes_password_and_one_database() -> None:
    environment = {"REDISCLI_AUTH": "data", "REDISCLI_SENTINEL_AUTH": "sentinels"}
    assert login_of(settings_of(CLUSTER, environment)) == (None, "data")
    assert settings_of(CLUSTER, db=0).endpoint.db == 0
    assert settings_of(CLUSTER, tls=TlsOptions(tls=True)).endpoint.ssl is not None
    with pytest.raises(ConfigError, match="db: must be 0"):
        client_of(CLUSTER, db=1)


def test_what_only_a_cluster_is_asked() -> None:
    options = ScanOptions(node="10.0.0.1:7000", allow_uncovered=True, max_nodes_at_once=2)
    assert options.arguments(of_cluster=True).items() >= {
        ("node", "10.0.0.1:7000"),
        ("allow_uncovered", True),
        ("max_nodes_at_once", 2),
    }
    with pytest.raises(ConfigError, match="node: is for a cluster"):
        options.arguments()
    # Where nothing is said, its own defaults count.
    plain = ScanOptions().arguments(of_cluster=True)
    assert not plain.keys() & {"node", "allow_uncovered", "max_nodes_at_once", "certify"}
    assert ScanOptions(certify="role").arguments(of_cluster=True)["certify"] == "role"
    assert ScanOptions().arguments()["certify"] == "sentinels"


def test_an_option_counts_before_the_url() -> None:
    url = "redis://h/3?response_timeout=2&failover_timeout=3"
    settings = settings_of(url)
    assert (settings.endpoint.db, settings.response_timeout, settings.failover_timeout) == (3, 2.0, 3.0)
    settings = settings_of(url, db=0, response_timeout=7.5, failover_timeout=8.0)
    assert (settings.endpoint.db, settings.response_timeout, settings.failover_timeout) == (0, 7.5, 8.0)


def test_keys_are_bytes_whatever_the_url_says() -> None:
    assert not settings_of("redis://h?decode_responses=1").decode_responses


@pytest.mark.parametrize(
    "url, there_is",
    [
        ("redis://h", False),
        ("redis://:secret@h", True),
        (SERVICE + "?sentinel_password=secret", True),
        ("http://:secret@h", False),  # wrong altogether, which is said elsewhere
    ],
)
def test_whether_there_is_a_password_in_the_url(url: str, there_is: bool) -> None:
    assert has_password(url) is there_is


def test_no_repr_shows_a_password() -> None:
    assert "secret" not in repr(ServerOptions(url="redis://:secret@h", password="secret"))


# ---- TLS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["redis://h", "REDIS://h", "valkey://h", "rediss://h", "valkeys://h"],
)
def test_tls_is_the_same_as_the_scheme_with_it(url: str) -> None:
    assert settings_of(url, tls=TlsOptions(tls=True)).endpoint.ssl is not None


@pytest.mark.parametrize("url", [SERVICE, SERVICE.replace("redis+", "valkey+"), SERVICE.replace("redis+", "rediss+")])
def test_tls_is_for_the_sentinels_too(url: str) -> None:
    client = client_of(url, tls=TlsOptions(tls=True))
    assert client._settings.endpoint.ssl is not None
    assert sentinels_of(client).ssl is client._settings.endpoint.ssl


def test_tls_for_the_data_nodes_alone() -> None:
    client = client_of(SERVICE + "?sentinel_tls=0", tls=TlsOptions(tls=True))
    assert client._settings.endpoint.ssl is not None
    assert sentinels_of(client).ssl is None


def test_a_scheme_without_tls_has_none() -> None:
    assert settings_of("redis://h").endpoint.ssl is None


def test_names_are_checked_unless_told_otherwise() -> None:
    context = settings_of("rediss://h").endpoint.ssl
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.verify_flags == ssl.create_default_context().verify_flags
    context = settings_of("rediss://h", tls=TlsOptions(insecure=True)).endpoint.ssl
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize("sni, asked", [(None, "node.example"), ("redis.example", "redis.example")])
def test_the_name_that_is_asked_for(sni: str | None, asked: str) -> None:
    context = TlsOptions(sni=sni).context()
    secured = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="node.example")
    assert secured.server_hostname == asked


@pytest.mark.parametrize(
    "given, argument",
    [
        ({"insecure": True}, "insecure"),
        ({"sni": "h"}, "sni"),
        ({"cacert": "ca.pem"}, "cacert"),
    ],
)
def test_what_means_nothing_without_tls_is_refused(given: dict[str, Any], argument: str) -> None:
    with pytest.raises(ConfigError, match=f"^{argument}: wants --tls"):
        client_of("redis://h", tls=TlsOptions(**given))


def test_tls_on_a_unix_socket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^tls: is not for Unix sockets"):
        client_of("unix:///run/redis.sock", tls=TlsOptions(tls=True))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"cacert": "notes.txt"}, "^cacert: has no certificates"),
        ({"cert": "notes.txt"}, "^cert: cannot be used with its key: not in PEM format"),
        ({"cert": "none.pem"}, "^cert: cannot be used with its key: No such file"),
        ({"key": "notes.txt"}, "^key: wants --cert"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, given: dict[str, str], message: str) -> None:
    (tmp_path / "notes.txt").write_text("not a certificate")
    paths: dict[str, Any] = {name: tmp_path / file for name, file in given.items()}
    with pytest.raises(ConfigError, match=message):
        TlsOptions(tls=True, **paths).context()


def test_a_directory_of_certificates(tmp_path: Path) -> None:
    assert TlsOptions(cacertdir=tmp_path).context().verify_mode is ssl.CERT_REQUIRED
