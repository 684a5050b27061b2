"""The first words on a connection: what is sent, what is made of the answers, and every way to fall back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from trio_sentinel_scan._core.cursor import CursorFormat
from trio_sentinel_scan._core.errors import (
    AuthenticationFailed,
    ConfigError,
    ProtocolError,
    RoleMismatch,
    ServerConnectionError,
)
from trio_sentinel_scan._core.handshake import (
    Greeting,
    Handshake,
    read_info,
    read_role,
    read_run_id,
    unfit_for_scanning,
)
from trio_sentinel_scan._core.identity import Address, Role, ServerIdentity
from trio_sentinel_scan._core.verdicts import parse_error_reply
from trio_sentinel_scan._core.wire import Argument

ADDRESS = Address("10.0.0.1", 6379)
RUN_ID = "0123456789abcdef" * 2 + "01234567"
INFO = b"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:" + RUN_ID.encode() + b"\r\nos:Linux\r\n"
HELLO: dict[bytes, Any] = {
    b"server": b"redis",
    b"version": b"7.0.15",
    b"proto": 3,
    b"id": 7,
    b"mode": b"standalone",
    b"role": b"master",
}
SENTINEL = {**HELLO, b"mode": b"sentinel"}
ROLE = [b"master", 3129659, [[b"10.0.0.2", b"6380", b"3129242"]]]
ERROR = parse_error_reply
OK = b"OK"


def make_handshake(
    login: tuple[str, ...] = (),
    *,
    db: int = 0,
    client_name: str | None = None,
    protocol: int | None = None,
) -> Handshake:
    return Handshake(ADDRESS, login=login, db=db, client_name=client_name, protocol=protocol, version="1.2.3")


def answer(handshake: Handshake, said: Mapping[str, Any] | None = None) -> Greeting | None:
    """Let a server answer each command: as `said` has it by the command's name, and honestly otherwise."""
    answers: dict[str, Any] = {"HELLO": HELLO, "ROLE": ROLE, "INFO": INFO, **(said or {})}
    return handshake.read([answers.get(str(command[0]), OK) for command in handshake.commands()])


def greeting(said: Mapping[str, Any] | None = None, **options: Any) -> Greeting:
    """What comes of a handshake in one round trip."""
    found = answer(make_handshake(**options), said)
    assert found is not None
    return found


# ---- what is sent ----------------------------------------------------------------------------------------------

TAIL: list[tuple[Argument, ...]] = [
    ("ROLE",),
    ("INFO", "server"),
    ("CLIENT", "SETINFO", "LIB-NAME", "trio-sentinel-scan"),
    ("CLIENT", "SETINFO", "LIB-VER", "1.2.3"),
]


@pytest.mark.parametrize(
    "handshake, head",
    [
        (make_handshake(), [("HELLO", 3)]),
        (make_handshake(("pw",)), [("HELLO", 3, "AUTH", "default", "pw")]),
        (make_handshake(("user", "pw")), [("HELLO", 3, "AUTH", "user", "pw")]),
        (
            make_handshake(("pw",), db=2, client_name="scan"),
            [("HELLO", 3, "AUTH", "default", "pw", "SETNAME", "scan"), ("SELECT", 2)],
        ),
        (make_handshake(protocol=2), []),
        (make_handshake(("pw",), protocol=2), [("AUTH", "pw")]),
        (
            make_handshake(("user", "pw"), db=1, client_name="scan", protocol=2),
            [("AUTH", "user", "pw"), ("CLIENT", "SETNAME", "scan"), ("SELECT", 1)],
        ),
    ],
    ids=range(7),
)
def test_everything_is_said_at_once(handshake: Handshake, head: list[tuple[Argument, ...]]) -> None:
    """HELLO or AUTH comes first, then the name, the database, and the questions."""
    assert handshake.commands() == head + TAIL


# ---- what is made of it ----------------------------------------------------------------------------------------


def test_a_greeting_says_who_answers() -> None:
    """Process, role with its replicas, cursor format, protocol."""
    found = greeting()
    assert found.identity == ServerIdentity(RUN_ID, ADDRESS)
    assert found.identity.address == ADDRESS
    assert found.role == Role("master", frozenset({Address("10.0.0.2", 6380)}))
    assert found.cursor_format is CursorFormat.REVERSED
    assert found.protocol == 3
    assert found.info["os"] == "Linux"


def test_a_server_without_hello_gets_the_same_in_resp2() -> None:
    """One more round trip; the second time nothing is asked that it does not know."""
    handshake = make_handshake(("user", "pw"), client_name="scan")
    assert answer(handshake, {"HELLO": ERROR("ERR unknown command 'HELLO', with args beginning with: '3' ")}) is None
    assert handshake.commands() == [("AUTH", "user", "pw"), ("CLIENT", "SETNAME", "scan"), *TAIL]
    found = answer(handshake)
    assert found is not None
    assert found.protocol == 2
    assert found.identity.run_id == RUN_ID


def test_a_server_without_resp3_gets_the_same_in_resp2() -> None:
    """NOPROTO is not the end."""
    handshake = make_handshake()
    assert answer(handshake, {"HELLO": ERROR("NOPROTO unsupported protocol version")}) is None
    assert handshake.commands() == TAIL


def test_where_resp3_was_asked_for_resp2_will_not_do() -> None:
    """The error says which argument asks for it, and has no password in it."""
    unknown = ERROR("ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'user' 'hunter2' ")
    with pytest.raises(ServerConnectionError, match="protocol=3") as caught:
        greeting({"HELLO": unknown}, login=("user", "hunter2"), protocol=3)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("reply", ["ERR max number of clients reached", "DENIED Redis is running in protected mode"])
@pytest.mark.parametrize("protocol", [None, 2])
@pytest.mark.parametrize("alone", [True, False])
def test_a_server_that_turns_everybody_away_is_not_taken_to_refuse_a_password(
    reply: str, protocol: int | None, alone: bool
) -> None:
    """What it says unasked, before it hangs up, comes in the place of the first answer, often as the only one."""
    handshake = make_handshake(("pw",), protocol=protocol)
    replies = [ERROR(reply)] + [OK] * (0 if alone else len(handshake.commands()) - 1)
    with pytest.raises(ServerConnectionError, match=r"10\.0\.0\.1:6379 turns connections away") as caught:
        handshake.read(replies)
    assert not isinstance(caught.value, AuthenticationFailed)


NOAUTH = ERROR("NOAUTH HELLO must be called with the client already authenticated")
WRONGPASS = ERROR("WRONGPASS invalid username-password pair or user is disabled.")


@pytest.mark.parametrize(
    "said, options, problem",
    [
        ({"HELLO": NOAUTH}, {}, "wants a password and was given none"),
        ({"HELLO": WRONGPASS}, {"login": ("hunter2",)}, "refused the username or password"),
        ({"AUTH": WRONGPASS}, {"login": ("hunter2",), "protocol": 2}, "refused the username or password"),
        ({"AUTH": ERROR("ERR invalid password")}, {"login": ("hunter2",), "protocol": 2}, "refused"),
        (
            {"AUTH": ERROR("ERR wrong number of arguments for 'auth' command")},
            {"login": ("user", "hunter2"), "protocol": 2},
            "refused the username or password",
        ),
        (
            {"AUTH": ERROR("ERR AUTH <password> called without any password configured for the default user.")},
            {"login": ("hunter2",), "protocol": 2},
            "refused the username or password",
        ),
        ({"ROLE": ERROR("NOAUTH Authentication required.")}, {"protocol": 2}, "wants a password and was given none"),
        ({"INFO": ERROR("NOAUTH Authentication required.")}, {}, "wants a password and was given none"),
    ],
    ids=range(8),
)
def test_a_refused_login_is_final(said: dict[str, Any], options: dict[str, Any], problem: str) -> None:
    """It names the server and the problem, and no password."""
    with pytest.raises(AuthenticationFailed, match=problem) as caught:
        greeting(said, **options)
    assert "10.0.0.1:6379" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("command", ["ROLE", "INFO", "SELECT", "CLIENT"])
@pytest.mark.parametrize("reply", ["LOADING Redis is loading the dataset in memory", "BUSY Redis is busy"])
def test_a_server_that_is_not_ready_is_one_to_come_back_to(command: str, reply: str) -> None:
    """Neither its role nor its process can be told, so nothing may be decided on them."""
    with pytest.raises(ServerConnectionError, match=f"is not ready: {reply.partition(' ')[0]}"):
        greeting({command: ERROR(reply)}, db=1)


def test_a_refused_database_is_the_callers_error() -> None:
    """It names the argument, and the server's reason."""
    with pytest.raises(ConfigError, match="database 99: DB index is out of range") as caught:
        greeting({"SELECT": ERROR("ERR DB index is out of range")}, db=99)
    assert caught.value.argument == "db"


@pytest.mark.parametrize(
    "said",
    [
        {"HELLO": SENTINEL, "ROLE": [b"sentinel", [b"mymaster"]]},
        {"HELLO": SENTINEL, "ROLE": ERROR("NOPERM no")},
        {"ROLE": [b"sentinel", [b"mymaster"]]},
        {"ROLE": [b"sentinel", []], "SELECT": ERROR("ERR unknown command 'SELECT', with args beginning with: '1' ")},
    ],
    ids=range(4),
)
@pytest.mark.parametrize("db", [0, 1])
def test_a_sentinel_is_not_taken_for_a_data_node(said: dict[str, Any], db: int) -> None:
    """It says so itself; that it knows no SELECT is not the point."""
    with pytest.raises(RoleMismatch, match="is a Sentinel"):
        greeting(said, db=db)


def test_a_server_that_may_not_tell_is_unknown_not_refused() -> None:
    """Without INFO there is no process, without ROLE there is HELLO's word, and without either no role."""
    no = ERROR("NOPERM this user has no permissions to run the command")
    found = greeting({"ROLE": no, "INFO": no, "CLIENT": no})
    assert found.identity.run_id is None
    assert found.cursor_format is CursorFormat.UNKNOWN
    assert found.role == Role("master")
    assert greeting({"ROLE": no}, protocol=2).role == Role("")
    assert greeting({"ROLE": no, "HELLO": {**HELLO, b"role": b"replica"}}).role == Role("slave")


def test_a_run_id_that_is_empty_is_none() -> None:
    """Some products have the field and nothing in it."""
    assert greeting({"INFO": b"redis_version:7.0.15\r\nrun_id:\r\n"}).identity.run_id is None


def test_an_error_on_the_client_commands_is_of_no_consequence() -> None:
    """Old servers have no CLIENT SETINFO."""
    assert greeting({"CLIENT": ERROR("ERR Unknown subcommand")}, client_name="scan").identity.run_id == RUN_ID


# ---- replies that are read elsewhere, too ----------------------------------------------------------------------


@pytest.mark.parametrize("text", [INFO, INFO.decode()])
def test_info_is_fields_and_values(text: bytes | str) -> None:
    """Headlines and empty lines are no fields, and a value may have a colon in it."""
    assert read_info(text)["run_id"] == RUN_ID
    assert read_run_id(text) == RUN_ID
    assert read_info(b"# Server\r\n\r\nlistener0:name=tcp,bind=::1\r\nnonsense\r\n") == {
        "listener0": "name=tcp,bind=::1"
    }


@pytest.mark.parametrize("reply", [ERROR("NOPERM no"), None, 7, [b"run_id:x"], b"", b"# Server\r\n"], ids=repr)
def test_info_that_is_none_has_no_run_id(reply: object) -> None:
    """Whatever else is answered to INFO names no process."""
    assert read_run_id(reply) is None


@pytest.mark.parametrize(
    "reply, role",
    [
        (ROLE, Role("master", frozenset({Address("10.0.0.2", 6380)}))),
        (
            ["master", 0, [["h", "1", "0"], ["::1", 2, 0]]],
            Role("master", frozenset({Address("h", 1), Address("::1", 2)})),
        ),
        # (Whoever takes a copy, and does not listen anywhere.)
        (["master", 0, [["h", "1", "0"], ["h", "0", "0"]]], Role("master", frozenset({Address("h", 1)}))),
        ([b"master", 0, []], Role("master")),
        ([b"master"], Role("master")),
        ([b"slave", b"10.0.0.1", 6379, b"connected", 3167038], Role("slave", link="connected")),
        ([b"slave", b"10.0.0.1", 6379, b"sync", -1], Role("slave", link="sync")),
        ([b"slave"], Role("slave")),
        ([b"sentinel", [b"mymaster"]], Role("sentinel")),
        ([], Role("hello's word")),
        (None, Role("hello's word")),
        (ERROR("NOPERM no"), Role("hello's word")),
    ],
    ids=range(12),
)
def test_a_role_is_read_from_bytes_and_text(reply: object, role: Role) -> None:
    """Where ROLE says nothing, HELLO's word stands in for it."""
    assert read_role(reply, hello_role="hello's word") == role


@pytest.mark.parametrize(
    "replicas", [[7], [[]], [[b"host"]], [[b"host", b"port"]], [[b"host", None]], [None], [{b"host": 1}]], ids=repr
)
def test_replicas_that_make_no_sense_are_a_protocol_error(replicas: list[Any]) -> None:
    """Not an accident inside of us."""
    with pytest.raises(ProtocolError):
        read_role([b"master", 0, replicas])


@pytest.mark.parametrize(
    "role, wants_master, problem",
    [
        (Role("master"), True, ""),
        (Role(""), True, ""),
        (Role("slave", link="connected"), True, "its role is slave"),
        (Role("slave", link="connect"), True, "its role is slave"),
        (Role("sentinel"), True, "its role is sentinel"),
        (Role("master"), False, ""),
        (Role(""), False, ""),
        (Role("slave", link="connected"), False, ""),
        (Role("slave", link="connecting"), False, "not in sync with its master (its link is 'connecting')"),
        (Role("slave"), False, "not in sync"),
    ],
)
def test_only_a_master_or_a_synced_replica_is_fit_for_scanning(role: Role, wants_master: bool, problem: str) -> None:
    """A replica that is not in sync answers SCAN with an empty result and no error."""
    said = unfit_for_scanning(role, ADDRESS, wants_master=wants_master)
    assert problem in said
    assert bool(said) is bool(problem)
    assert not said or "10.0.0.1:6379" in said


@pytest.mark.parametrize(
    "role, problem",
    [
        (Role("slave", link="connected"), ""),
        (Role("slave", link="handshake"), "not in sync with its master (its link is 'handshake')"),
        (Role("slave"), "not in sync"),
        (Role("master"), "was named as a replica and says that its role is master"),
        (Role(""), "was named as a replica and does not tell its role"),
    ],
)
def test_only_a_synced_replica_is_fit_where_a_replica_is_wanted(role: Role, problem: str) -> None:
    """It must say so itself: what the Sentinels know may be ten seconds old."""
    said = unfit_for_scanning(role, ADDRESS, wants_master=False, wants_replica=True)
    assert problem in said
    assert bool(said) is bool(problem)


@pytest.mark.parametrize("protocol", [None, 2])
@pytest.mark.parametrize("refusal", ["ERR unknown subcommand 'CAPA'", "ERR Unknown subcommand", "NOPERM no"])
def test_a_server_is_asked_to_redirect_where_a_master_is_wanted(protocol: int | None, refusal: str) -> None:
    """In the same round trip; one that does not know how, or may not, is as good as any."""
    handshake = Handshake(
        ADDRESS, login=(), db=0, client_name=None, protocol=protocol, version="1.2.3", wants_master=True
    )
    assert handshake.commands()[-1] == ("CLIENT", "CAPA", "redirect")
    answers: dict[str, Any] = {"HELLO": HELLO, "ROLE": ROLE, "INFO": INFO}
    found = handshake.read([answers.get(str(words[0]), OK) for words in handshake.commands()[:-1]] + [ERROR(refusal)])
    assert found is not None
    assert found.identity.run_id == RUN_ID


def test_as_many_replies_as_commands() -> None:
    """Anything else is a driver's mistake, and no greeting is made of it."""
    with pytest.raises(ValueError, match="shorter"):
        make_handshake().read([HELLO, ROLE])
