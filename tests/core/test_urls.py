"""URLs: every scheme and part, and that no refusal repeats a password."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings, strategies as st

from trio_sentinel_scan._core.errors import ConfigError
from trio_sentinel_scan._core.identity import Address
from trio_sentinel_scan._core.urls import ParsedURL, parse_url

LOCAL = Address("localhost", 6379)


@pytest.mark.parametrize(
    "url, kind, addresses, service, options",
    [
        ("redis://", "redis", [LOCAL], None, {}),
        ("redis://localhost", "redis", [LOCAL], None, {}),
        ("REDIS://localhost", "redis", [LOCAL], None, {}),
        ("valkey://localhost:7000", "redis", [Address("localhost", 7000)], None, {}),
        ("redis://localhost/3", "redis", [LOCAL], None, {"db": 3}),
        ("redis://localhost/3/", "redis", [LOCAL], None, {"db": 3}),
        ("redis://localhost/", "redis", [LOCAL], None, {}),
        ("redis:///5", "redis", [LOCAL], None, {"db": 5}),
        ("rediss://localhost", "redis", [LOCAL], None, {"ssl": True}),
        ("valkeys://localhost", "redis", [LOCAL], None, {"ssl": True}),
        ("redis://[::1]:7000/1", "redis", [Address("::1", 7000)], None, {"db": 1}),
        ("redis://[::1]", "redis", [Address("::1", 6379)], None, {}),
        ("redis://[fe80::1%25eth0]:7000", "redis", [Address("fe80::1%eth0", 7000)], None, {}),
        ("redis://:pw@localhost", "redis", [LOCAL], None, {"password": "pw"}),
        ("redis://user@localhost", "redis", [LOCAL], None, {"username": "user"}),
        ("redis://user:pw@localhost", "redis", [LOCAL], None, {"username": "user", "password": "pw"}),
        ("redis://us%3Aer:pw@localhost", "redis", [LOCAL], None, {"username": "us:er", "password": "pw"}),
        ("redis://user:@localhost", "redis", [LOCAL], None, {"username": "user"}),
        ("redis://@localhost", "redis", [LOCAL], None, {}),
        ("redis://localhost?", "redis", [LOCAL], None, {}),
        ("redis://localhost#", "redis", [LOCAL], None, {}),
        ("redis://localhost/3?db=4", "redis", [LOCAL], None, {"db": 4}),
        (
            "redis://localhost?username=user&password=p%26w&client_name=scan&protocol=2",
            "redis",
            [LOCAL],
            None,
            {"username": "user", "password": "p&w", "client_name": "scan", "protocol": 2},
        ),
        (
            "redis://h?response_timeout=1.5&failover_timeout=inf&decode_responses=Yes&encoding=ascii&encoding_errors=ignore",
            "redis",
            [Address("h", 6379)],
            None,
            {
                "response_timeout": 1.5,
                "failover_timeout": float("inf"),
                "decode_responses": True,
                "encoding": "ascii",
                "encoding_errors": "ignore",
            },
        ),
        ("redis://localhost?decode_responses=off", "redis", [LOCAL], None, {"decode_responses": False}),
        ("redis://localhost?protocol=3", "redis", [LOCAL], None, {"protocol": 3}),
        (
            "redis://localhost?retry_writes=yes&max_waiting=5",
            "redis",
            [LOCAL],
            None,
            {"retry_writes": True, "max_waiting": 5},
        ),
        ("redis://localhost?wait_ready=yes", "redis", [LOCAL], None, {"wait_ready": True}),
        ("unix:///run/redis.sock", "redis", [Address("/run/redis.sock", 0)], None, {}),
        (
            "unix://user:pw@/run/my%20redis.sock?db=2",
            "redis",
            [Address("/run/my redis.sock", 0)],
            None,
            {"username": "user", "password": "pw", "db": 2},
        ),
        (
            "redis+sentinel://h1,h2:7000,[::1]:7001,[::2]/mymaster/4",
            "sentinel",
            [Address("h1", 26379), Address("h2", 7000), Address("::1", 7001), Address("::2", 26379)],
            "mymaster",
            {"db": 4},
        ),
        (
            "valkey+sentinel://u:p@h1,h1,h1:26379/my%20master?sentinel_username=su&sentinel_password=sp",
            "sentinel",
            [Address("h1", 26379)],
            "my master",
            {
                "username": "u",
                "password": "p",
                "sentinel_username": "su",
                "sentinel_password": "sp",
            },
        ),
        ("rediss+sentinel://h1/m", "sentinel", [Address("h1", 26379)], "m", {"ssl": True, "sentinel_ssl": True}),
        (
            "valkeys+sentinel://h1/m?sentinel_tls=no",
            "sentinel",
            [Address("h1", 26379)],
            "m",
            {"ssl": True, "sentinel_ssl": False},
        ),
        ("redis+sentinel://h1/m?sentinel_tls=off", "sentinel", [Address("h1", 26379)], "m", {"sentinel_ssl": False}),
        ("redis://localhost?password=p+w%20x=y", "redis", [LOCAL], None, {"password": "p+w x=y"}),
        ("redis+sentinel://h1/m?sentinel_tls=1", "sentinel", [Address("h1", 26379)], "m", {"sentinel_ssl": True}),
        (
            "redis+cluster://u:p@h1,h2:7000,[::1]:7001,h1/0?retry_writes=yes",
            "cluster",
            [Address("h1", 6379), Address("h2", 7000), Address("::1", 7001)],
            None,
            {"username": "u", "password": "p", "retry_writes": True},
        ),
        ("rediss+cluster://h1", "cluster", [Address("h1", 6379)], None, {"ssl": True}),
        ("valkeys+cluster://h1/", "cluster", [Address("h1", 6379)], None, {"ssl": True}),
    ],
    ids=lambda value: value if isinstance(value, str) and "://" in value else "-",
)
def test_a_url_says_which_client_where_and_how(
    url: str, kind: str, addresses: list[Address], service: str | None, options: dict[str, Any]
) -> None:
    """Each scheme, with each part that it may have; what stands behind "?" wins."""
    assert parse_url(url) == ParsedURL(kind, tuple(addresses), service, options)


@pytest.mark.parametrize(
    "url",
    [
        *[None, 1, b"redis://localhost"],
        *["", "localhost", "localhost:6379", "redis:localhost", "http://localhost", "redis+cluster:h1", "://h1"],
        *["redis://h1,h2", "redis://localhost:x", "redis://localhost:", "redis://localhost:65536", "redis://::1]:1"],
        *["redis://[::1", "redis://a b", "redis://h:1:2]", "redis://localhost:" + "9" * 10_000],
        *["redis://localhost/x", "redis://localhost/-1", "redis://localhost/1/2", "redis://localhost/٣"],
        *["redis://localhost/" + "9" * 10_000, "redis://localhost#fragment", "redis://%2Frun%2Fredis.sock,"],
        *["unix://run/redis.sock", "unix://", "unix://host:1"],
        *["redis+sentinel://h1", "redis+sentinel://h1/", "redis+sentinel://h1//0", "redis+sentinel://h1/m/x"],
        *["redis+sentinel:///m", "redis+sentinel://h1,,h2/m", "redis+sentinel://,/m", "redis+sentinel://h1,/m"],
        *["redis+sentinel://h1, h2/m", "redis+sentinel://h1:x/m"],
        *["redis+cluster://", "redis+cluster://h1,,h2", "redis+cluster://h1/1", "redis+cluster://h1/service"],
        *["redis+cluster://h1?db=1", "redis+cluster://h1?sentinel_tls=1"],
        *["redis://h?x", "redis://h?&", "redis://h?db", "redis://h?nosuch=1", "redis://h?sentinel_tls=1"],
        *["redis://h?db=x", "redis://h?db=" + "9" * 10_000, "redis://h?protocol=4", "redis://h?protocol="],
        *["redis://h?decode_responses=maybe", "redis://h?response_timeout=soon", "redis+sentinel://h/m?sentinel_tls=x"],
    ],
    ids=lambda url: f"{url!r:.60}",
)
def test_a_malformed_url_is_refused(url: object) -> None:
    """With one type of error, that names the argument."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert caught.value.argument == "url"


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    """The usual mistake is one of spelling."""
    with pytest.raises(ConfigError, match=r"'responsetimeout'.*response_timeout"):
        parse_url("redis://localhost?responsetimeout=1")
    with pytest.raises(ConfigError, match="sentinel_password"):
        parse_url("redis+sentinel://localhost/m?sentinelpassword=1")


PASSWORDS = ["p@ss", "p:ss", "p/ss", "p#ss", "p?ss", "p%ss", "pässwörd", "p ss", "p+ss", "p&s=s", "密码", "@:/?#%"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme, tail", [("redis", "localhost/0"), ("redis+sentinel", "h1,h2/m"), ("unix", "/s.sock")])
def test_a_quoted_password_may_have_any_character(scheme: str, tail: str, password: str) -> None:
    """In the user's part and behind "?" alike."""
    quoted = quote(password, safe="")
    assert parse_url(f"{scheme}://user:{quoted}@{tail}").options["password"] == password
    assert parse_url(f"{scheme}://{tail}?password={quoted}").options["password"] == password


@pytest.mark.parametrize("password", ["p@ss", "p:ss", "p/ss", "p@:/ss", "pässwörd", "p+ss"])
def test_a_password_need_not_be_quoted_where_nothing_is_ambiguous(password: str) -> None:
    """The last @ ends the user's part."""
    parsed = parse_url(f"redis://user:{password}@localhost/1")
    assert parsed.options == {"username": "user", "password": password, "db": 1}
    assert parsed.addresses == (LOCAL,)


# Something that no message of ours has in it.
SECRETS = st.text(st.sampled_from("XQZ"), min_size=6, max_size=6)
GLUE = st.text(st.sampled_from("@:/?#%&=[],"), max_size=4)


@settings(max_examples=300)
@given(
    st.sampled_from(["redis", "rediss+sentinel", "unix", "http"]),
    st.tuples(GLUE, SECRETS, GLUE, SECRETS, GLUE).map("".join),
    st.sampled_from(["localhost/0", "h1,h2/m", "h:x/0", "/s.sock", "", "[::1", "h?db=x", "h?nosuch=1", "h#f"]),
)
@example("redis", "hunter?XQZXQZ=ZZZXXX", "localhost/0")
@example("redis", "hunter#XQZXQZ", "localhost/0")
@example("redis", "hunter/XQZXQZ?XXXZZZ", "localhost/0")
def test_no_refusal_repeats_a_piece_of_a_password(scheme: str, password: str, tail: str) -> None:
    """Not even of one that stands there unquoted, with everything in it that has a meaning in URLs."""
    try:
        parsed = parse_url(f"{scheme}://user:{password}@{tail}")
    except ConfigError as error:
        shown = str(error) + repr(error) + repr(error.__context__) + repr(error.__cause__)
    else:
        shown = repr(parsed)
        assert parsed.options.get("password") or parsed.options.get("username")
    assert not any(piece in shown for piece in ("XX", "XQ", "XZ", "QX", "QQ", "QZ", "ZX", "ZQ", "ZZ"))
