"""Seen keys on disk: what is kept, what is refused, and what is left when the disk fails or the process dies."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trio_sentinel_scan import ConfigError, DurableSeenKeys, SeenKeysUnavailable, SpillingSeen, _spilling as spilling

IMPORTS = "import os, sys\nfrom trio_sentinel_scan import SpillingSeen\n"
KEYS = [b"key:%d" % number for number in range(1_000)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seen.db"


@pytest.fixture(params=["file", "temporary"])
def seen(request: pytest.FixtureRequest, path: Path) -> Iterator[SpillingSeen]:
    """One that begins empty."""
    with SpillingSeen(path if request.param == "file" else None) as store:
        yield store


def copied(path: Path, to: str) -> Path:
    """The file as it would be found if its process died now."""
    target = path.with_name(to)
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copy(source, target.with_name(target.name + suffix))
    return target


def other_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Another Python; its SpillingSeen is imported."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os, sys\nfrom trio_sentinel_scan import SpillingSeen\n{code}",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )


# ---- keys -------------------------------------------------------------------------------------------------------


def test_what_was_marked_is_not_new(seen: SpillingSeen) -> None:
    """More than are looked up at once; in their order, each once."""
    assert seen.unseen([]) == []
    assert seen.unseen([b"b", b"a", b"b"]) == [b"b", b"a"]
    seen.mark(KEYS)
    assert seen.unseen([b"x", *KEYS, b"y", b"x"]) == [b"x", b"y"]
    assert seen.unseen([*KEYS[:300], b"x"]) == [b"x"]
    assert len(seen) == len(KEYS)
    assert isinstance(seen, DurableSeenKeys)


@pytest.mark.parametrize("kind", ["bytes", "str"])
def test_any_key_at_all(path: Path, kind: str) -> None:
    """None is taken for another, and none is too odd."""
    keys: list[Any] = [b"", b"\0", b"\0\0", b"\xff\xfe", b"a", b"A", b"a\0b", b"a\0c", b"%" * 10_000]
    if kind == "str":
        keys = [key.decode(errors="surrogateescape") for key in keys] + ["\udc80", "\ud800", "é", "e\u0301", "1", "1.0"]
    with SpillingSeen(path) as seen:
        for number, key in enumerate(keys):
            assert seen.unseen(keys) == keys[number:]
            seen.mark([key])
    with SpillingSeen(path) as seen:
        assert seen.unseen(keys) == []
        assert len(seen) == len(keys)


@pytest.mark.parametrize("first, then", [([b"a"], ["a"]), (["a"], [b"a"])])
def test_bytes_and_str_are_not_mixed(path: Path, first: list[Any], then: list[Any]) -> None:
    """A scan that has the other kind would get everything again, without a word."""
    with SpillingSeen(path) as seen:
        seen.mark(first)
    with SpillingSeen(path) as seen:
        for use in (seen.unseen, seen.mark):
            with pytest.raises(ConfigError, match="decode_responses") as caught:
                use(then)
            assert caught.value.argument == "dedupe"
        with pytest.raises(ConfigError, match="decode_responses"):
            seen.unseen(first + then)
        assert seen.unseen(first) == []
        seen.clear()
        assert seen.unseen(then) == then
        seen.mark(then)
        assert seen.unseen(then) == []
    with SpillingSeen() as seen, pytest.raises(ConfigError, match="decode_responses"):
        seen.mark(first + then)


def test_what_is_no_key(seen: SpillingSeen) -> None:
    key: Any
    for key in (1, None, bytearray(b"a")):
        with pytest.raises(TypeError, match="bytes or str"):
            seen.unseen([key] if key != bytearray(b"a") else [memoryview(b"a")])
    assert len(seen) == 0


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_the_number_grows_with_what_is_marked(seen: SpillingSeen) -> None:
    assert seen.number == 0
    seen.mark([])
    assert seen.number == 0
    for number in (1, 2, 3):
        seen.mark([b"%d" % number])
        assert seen.number == number


def test_rolled_back(seen: SpillingSeen) -> None:
    """Later marks are forgotten, committed or not, and their numbers are not given again."""
    for number in range(1, 6):
        seen.mark([b"%d" % number, b"%d'" % number])
        if number == 3:
            seen.commit()
    seen.rollback(2)
    assert (seen.number, len(seen)) == (2, 4)
    assert seen.unseen([b"1", b"2'", b"3", b"4'", b"5"]) == [b"3", b"4'", b"5"]
    seen.mark([b"4'"])
    assert seen.number == 6
    for number in (-1, 3, 4, 5, 7, 2**64 - 1):
        with pytest.raises(ValueError, match="never was"):
            seen.rollback(number)
    seen.rollback(6)
    assert seen.unseen([b"4'"]) == []
    seen.rollback(1)
    seen.rollback(1)
    with pytest.raises(ValueError, match="never was"):
        seen.rollback(2)
    seen.rollback(0)
    assert (seen.number, len(seen)) == (0, 0)
    assert seen.unseen([b"1"]) == [b"1"]
    seen.mark([b"1"])
    assert seen.number == 7


def test_rolled_back_to_where_it_is(path: Path) -> None:
    """Kept at once, as any other."""
    with SpillingSeen(path) as seen:
        seen.mark([b"a"])
        seen.rollback(1)
        with SpillingSeen(copied(path, "copy.db")) as copy:
            assert (copy.number, len(copy)) == (1, 1)


def test_cleared(path: Path) -> None:
    """A store of its own: earlier checkpoints have another name."""
    with SpillingSeen(path) as seen:
        name = seen.name
        assert len(name) == 8
        seen.mark([b"a"])
        seen.rollback(0)
        seen.mark([b"b"])
        seen.clear()
        assert (seen.number, len(seen)) == (0, 0)
        assert seen.unseen([b"a", b"b"]) == [b"a", b"b"]
        assert seen.name != name
        name = seen.name
        seen.mark([b"a"])
        assert seen.number == 1
    with SpillingSeen(path) as seen:
        assert (seen.name, seen.number) == (name, 1)


def test_each_has_a_name_of_its_own() -> None:
    names: set[bytes] = set()
    for _ in range(10):
        with SpillingSeen() as seen:
            names.add(seen.name)
    assert len(names) == 10


# ---- what is kept -----------------------------------------------------------------------------------------------


def test_opened_again(path: Path) -> None:
    with SpillingSeen(str(path)) as seen:
        seen.mark(KEYS)
        seen.mark([b"more"])
        name = seen.name
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with SpillingSeen(path) as seen:
        assert (seen.name, seen.number, len(seen)) == (name, 2, 1_001)
        assert seen.unseen([*KEYS, b"more", b"new"]) == [b"new"]


def test_what_its_process_left_when_it_died(path: Path) -> None:
    """What was committed, and nothing else: of what came after it no checkpoint tells."""
    with SpillingSeen(path) as seen:
        seen.mark([b"a"])
        seen.commit()
        seen.mark([b"b"])
        with SpillingSeen(copied(path, "copy.db")) as copy:
            assert (copy.name, copy.number, len(copy)) == (seen.name, 1, 1)
            assert copy.unseen([b"a", b"b"]) == [b"b"]
            copy.mark([b"c"])
            assert copy.number == 2


def test_killed(path: Path) -> None:
    """SIGKILL, with a page marked and not committed. The lock goes with the process."""
    code = """
seen = SpillingSeen(sys.argv[1])
seen.mark([b"a"]); seen.commit(); seen.mark([b"b"] + [b"%d" % number for number in range(10_000)])
os.kill(os.getpid(), 9)
"""
    assert other_process(code, path).returncode == -9
    with SpillingSeen(path) as seen:
        assert (seen.number, len(seen)) == (1, 1)
        assert seen.unseen([b"a", b"b"]) == [b"b"]


def test_what_is_not_closed_is_as_it_was_committed(path: Path) -> None:
    """`dedupe=SpillingSeen()` is closed by nobody, and nobody is warned of it."""
    seen = SpillingSeen(path)
    seen.mark([b"a"])
    seen.commit()
    seen.mark([b"b"])
    del seen
    gc.collect()
    with SpillingSeen(path) as seen:
        assert seen.unseen([b"a", b"b"]) == [b"b"]


def test_it_commits_by_itself_when_there_is_much(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the log stays small. What was committed can be rolled back all the same."""
    monkeypatch.setattr(spilling, "_MOST_UNCOMMITTED", 250)
    with SpillingSeen(path) as seen:
        for start in range(0, 1_000, 100):
            seen.mark(KEYS[start : start + 100])
        with SpillingSeen(copied(path, "copy.db")) as copy:
            assert (copy.number, len(copy)) == (9, 900)
        seen.rollback(1)
        assert seen.unseen(KEYS) == KEYS[100:]


def test_a_temporary_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is kept in memory."""
    monkeypatch.setattr(spilling, "_CACHE", 100)
    # SQLite looks this up once; in another process, so that it is looked up for certain.
    code = """
import trio_sentinel_scan._spilling as spilling
spilling._CACHE = 100
seen = SpillingSeen()
seen.mark([b"%d" % number for number in range(100_000)])
assert len(seen.unseen([b"%d" % number for number in range(100_001)])) == 1
files = "/proc/self/fd/"
links = [files + name for name in os.listdir(files) if os.path.islink(files + name)]
print([name for link in links if (name := os.readlink(link)).startswith(sys.argv[1])])
"""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    done = other_process(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if Path("/proc/self/fd").exists():
        assert "(deleted)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_may_read_it(path: Path) -> None:
    """It has the names of keys."""
    with SpillingSeen(path) as seen:
        seen.mark([b"a"])
        seen.commit()
        files = list(path.parent.iterdir())
        assert len(files) == 2
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_its_repr_has_no_key(path: Path) -> None:
    with SpillingSeen(path) as seen, SpillingSeen() as temporary:
        seen.mark([b"secret"])
        assert repr(seen) == f"<SpillingSeen of 1 keys in {str(path)!r}>"
        assert repr(temporary) == "<SpillingSeen of 0 keys in a temporary file>"
    assert repr(temporary) == "<SpillingSeen of 0 keys in a temporary file, which is closed>"


# ---- what is refused --------------------------------------------------------------------------------------------


def refused(path: object, match: str) -> None:
    """With an error that names the argument."""
    target: Any = path
    with pytest.raises(ConfigError, match=match) as caught:
        SpillingSeen(target)
    assert caught.value.argument == "path"


def refused_and_left(path: Path, match: str) -> None:
    """And the file is as it was. (Not for one in use: to open and close a file is to give up every lock on it.)"""
    before = path.read_bytes()
    refused(path, match)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [1, b"seen.db", "", True, ["seen.db"]])
def test_what_is_no_path(value: object) -> None:
    refused(value, "must be a file's path")


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere" / "seen.db", "No such file or directory")
    refused(tmp_path, "something else than a file")
    refused("seen\0.db", "null byte")


def test_a_link_that_leads_nowhere(path: Path) -> None:
    """The database would make a file there that everybody may read."""
    path.symlink_to(path.with_name("not there"))
    with pytest.raises(ConfigError, match=r"^path: cannot be read: No such file") as caught:
        SpillingSeen(path)
    assert caught.value.argument == "path"
    assert not path.with_name("not there").exists()


def test_names_that_mean_something_to_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are files like all others."""
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory"):
        with SpillingSeen(name):
            assert (tmp_path / name).is_file()


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_file_of_another_kind(path: Path, size: int) -> None:
    path.write_bytes((b"not a database " * 10_000)[:size])
    refused_and_left(path, "not a store of seen keys; it was left as it is")


def test_an_empty_file_is_as_good_as_none(path: Path) -> None:
    path.touch()
    with SpillingSeen(path) as seen:
        seen.mark([b"a"])


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_somebody_elses_database(path: Path, mode: str) -> None:
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA journal_mode = {mode}")
    other.execute("CREATE TABLE seen (key)")
    other.commit()
    other.close()
    refused_and_left(path, "something else")
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    other.close()


def test_another_version(path: Path) -> None:
    SpillingSeen(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    refused_and_left(path, "of version 2, and this package has version 1")


def test_one_that_is_in_use(path: Path) -> None:
    """By this process, or by another one; and as long as it is."""
    code = """
try:
    SpillingSeen(sys.argv[1])
except ValueError as error:
    print(error)
"""
    with SpillingSeen(path) as seen:
        refused(path, "in use")
        assert "path: is in use" in other_process(code, path).stdout
        seen.mark([b"a"])
        seen.commit()
        refused(path, "in use")
        assert "path: is in use" in other_process(code, path).stdout
    assert other_process(code, path).stdout == ""
    with SpillingSeen(path) as seen:
        # One that has been there already is in use from the beginning, too.
        refused(path, "in use")
        assert seen.unseen([b"a"]) == []


def test_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(ConfigError, match="built without it") as caught:
        SpillingSeen()
    assert caught.value.argument == "dedupe"


# ---- what fails -------------------------------------------------------------------------------------------------


def uses(seen: SpillingSeen) -> list[Any]:
    """Whatever needs the file."""
    return [lambda: seen.unseen([b"a"]), lambda: seen.mark([b"a"]), seen.commit, lambda: seen.rollback(0), seen.clear]


def test_closed(seen: SpillingSeen) -> None:
    seen.close()
    seen.close()
    for use in uses(seen):
        with pytest.raises(SeenKeysUnavailable, match="the store of seen keys is closed"):
            use()
    # What a scan asks before it begins.
    assert (seen.number, len(seen.name)) == (0, 8)


def fill_up(seen: SpillingSeen) -> None:
    """Nothing more goes on the disk."""
    assert seen._connection is not None
    (pages,) = seen._connection.execute("PRAGMA page_count").fetchone()
    seen._connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk(path: Path) -> None:
    """It raises, and is closed: what was committed is there for the next one."""
    with SpillingSeen(path) as seen:
        seen.mark([b"a"])
        seen.commit()
        seen.mark([b"b"])
        fill_up(seen)
        with pytest.raises(SeenKeysUnavailable, match="full; what was committed is still in it") as caught:
            seen.mark([b"long" * 1000 + key for key in KEYS])
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        for use in uses(seen):
            with pytest.raises(SeenKeysUnavailable, match="full") as caught:
                use()
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    with SpillingSeen(path) as seen:
        assert (seen.number, len(seen)) == (1, 1)
        assert seen.unseen([b"a", b"b"]) == [b"b"]


def test_a_file_that_is_damaged(path: Path) -> None:
    """Typed as well, whenever it is noticed."""
    with SpillingSeen(path) as seen:
        for start in range(0, 1_000, 100):
            seen.mark([key * 20 for key in KEYS[start : start + 100]])
    damaged = bytearray(path.read_bytes())
    damaged[3 * 4096 :] = os.urandom(len(damaged) - 3 * 4096)
    path.write_bytes(damaged)
    with pytest.raises((SeenKeysUnavailable, ConfigError)), SpillingSeen(path) as seen:
        seen.unseen([key * 20 for key in KEYS])


@pytest.mark.parametrize("what", ["mark", "rollback", "clear"])
def test_interrupted_half_way(path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Ctrl-C comes wherever it likes. Half a page that counts as seen would be lost for good."""

    class Interrupted(int):
        def __add__(self, other: object) -> int:
            raise KeyboardInterrupt

    def interrupt(_seen: object, _connection: object) -> None:
        raise KeyboardInterrupt

    with SpillingSeen(path) as seen:
        seen.mark([b"a"])
        seen.mark([b"b"])
        seen.commit()
        use = {"mark": lambda: seen.mark([b"c"]), "rollback": lambda: seen.rollback(1), "clear": seen.clear}[what]
        if what == "mark":
            # Comes when the rows have been written.
            seen._keys = Interrupted()
        else:
            monkeypatch.setattr(SpillingSeen, "_write_down", interrupt)
        with pytest.raises(KeyboardInterrupt):
            use()
        monkeypatch.undo()
        with pytest.raises(SeenKeysUnavailable, match="interrupted"):
            seen.unseen([b"a"])
    with SpillingSeen(path) as seen:
        assert (seen.number, len(seen)) == (2, 2)
        assert seen.unseen([b"a", b"b", b"c"]) == [b"c"]
