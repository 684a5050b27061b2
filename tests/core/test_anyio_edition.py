"""The AnyIO edition is what its source says, in AnyIO's words, with the same public names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import trio_sentinel_scan
import trio_sentinel_scan.anyio

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "anyio_edition.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not run in the repository: the script is not packaged")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("anyio_edition", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generated() -> list[Path]:
    """The files of the edition that nobody writes by hand."""
    folder = ROOT / "trio_sentinel_scan" / "anyio"
    return [path for path in sorted(folder.glob("*.py")) if path.name != "streams.py"]


def mapped(generator: ModuleType, text: str) -> str:
    return "".join(generator.mapped(text))


@pytest.mark.slow
def test_it_is_up_to_date(generator: ModuleType) -> None:
    pytest.importorskip("ruff", reason="what is generated is formatted by ruff, which is not installed here")
    assert generator.stale(generator.edition()) == []


def test_each_file_says_where_it_is_from() -> None:
    for path in generated():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert re.fullmatch(r"# Generated from (_trio/)?\w+\.py by `nox -s anyio`: .*", first), path.name


def test_public_names_are_the_same() -> None:
    def public(module: ModuleType) -> set[str]:
        return {name for name in vars(module) if not name.startswith("_")} - {"annotations", "anyio", "testing", "cli"}

    def submodules(module: ModuleType) -> set[str]:
        return {name for name, value in vars(module).items() if isinstance(value, ModuleType)}

    one, other = trio_sentinel_scan, trio_sentinel_scan.anyio
    assert public(one) - submodules(one) == public(other) - submodules(other)
    assert "SentinelClient" in public(other)


def test_what_is_decided_in_the_core_is_the_same_object() -> None:
    """An error of one edition is caught by the other's name; a page, an event, a gap likewise."""
    for name, thing in vars(trio_sentinel_scan).items():
        if getattr(thing, "__module__", "") == "trio_sentinel_scan" and isinstance(thing, type):
            from_source = thing.__mro__[0] is getattr(trio_sentinel_scan.anyio, name)
            runs = name in {
                "ClusterClient",
                "ClusterPipeline",
                "ClusterSubscriber",
                "Lease",
                "Lock",
                "Pipeline",
                "RedisClient",
                "ScanPages",
                "SentinelClient",
                "Subscriber",
                "TopologyEvents",
            }
            assert from_source is not runs, name


def test_what_runs_says_which_edition_it_is_of() -> None:
    assert trio_sentinel_scan.SentinelClient.__module__ == "trio_sentinel_scan"
    assert trio_sentinel_scan.anyio.SentinelClient.__module__ == "trio_sentinel_scan.anyio"


def test_a_name_that_is_not_mapped_is_refused(generator: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=re.escape("trio.open_file")):
        mapped(generator, "import trio\nasync def f():\n    return await trio.open_file('x')\n")
    source = tmp_path / "new.py"
    source.write_text("import trio\nx = trio.lowlevel.ParkingLot\n")
    with pytest.raises(SystemExit, match=r"trio\.lowlevel.*extend anyio_edition\.py"):
        generator.translated(source, "_trio/")


@pytest.mark.parametrize(
    "line",
    [
        "import trio as t",
        "import trio.lowlevel",
        "import math, trio",
        "from somewhere import trio",
        "from .._trio.streams import Stream",
        "from .. import SentinelClient",
        "from trio_sentinel_scan._trio import streams",
        "import asyncio",
        "send_stream = send_channel",
    ],
)
def test_what_would_pass_through_is_refused(generator: ModuleType, tmp_path: Path, line: str) -> None:
    source = tmp_path / "new.py"
    source.write_text(f"import trio\n{line}\n")
    with pytest.raises(SystemExit, match="cannot be translated"):
        generator.translated(source, "_trio/")


@pytest.mark.parametrize(
    "line",
    [
        'backend = "trio"',
        'backend = f"trio"',
        'kind = "nursery"',
        'kind = "nursery_of"',
        'kind = """nursery"""',
        'where = "trio.to_nowhere"',
        'text = "see trio.to_nowhere for that"',
        "x = 1  # trio has it",
        "trio_token = None",
        "self.on_trio()",
    ],
)
def test_a_word_that_no_table_has_is_refused(generator: ModuleType, tmp_path: Path, line: str) -> None:
    """One word may be a key: it is neither passed through nor made into two."""
    source = tmp_path / "new.py"
    source.write_text(f"import trio\n\n{line}\n")
    with pytest.raises(SystemExit, match=r"new\.py:3: .*no table has what stands for it"):
        generator.translated(source, "_trio/")


@pytest.mark.parametrize(
    "line",
    [
        'logger = "trio_sentinel_scan.client"',
        'names = ["open_service_nursery", "send_channel"]',
        'text = "a nursery of Trio\'s, and trio.Event"',
        "x = trio.Event()  # trio.Event, a nursery",
        'text = f"{nursery} {1} nursery"',
    ],
)
def test_words_that_the_tables_have_are_not_refused(generator: ModuleType, line: str) -> None:
    generator.refuse_words(Path("new.py"), f"import trio\n\n{line}\n")


@pytest.mark.parametrize(
    "names",
    [
        ("nurseries.py", "task_groups.py", "task_groups.py"),
        ("nursery_of.py", "Task_Group_of.py", "task_group_of.py"),
        ("nursery.py", "task_group.py", "task_group.py"),
    ],
    ids=lambda names: names[0],
)
def test_two_sources_of_one_result_are_refused(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    one, other, result = names
    monkeypatch.setattr(generator, "SOURCE", tmp_path)
    (tmp_path / one).write_text("")
    assert generator.sources() == {result: tmp_path / one}
    (tmp_path / other).write_text("")
    with pytest.raises(SystemExit, match=rf"(?i)its result is anyio/{re.escape(result)}, and so is that of"):
        generator.edition()


def test_a_source_of_what_is_written_by_hand_is_refused(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(generator, "SOURCE", tmp_path)
    for name in ("streams.py", "__init__.py"):
        (tmp_path / name).write_text("")
    assert generator.sources() == {}
    monkeypatch.setitem(generator.WORDS, "channels", "streams")
    monkeypatch.setattr(generator, "WORD", re.compile("channels"))
    (tmp_path / "channels.py").write_text("")
    with pytest.raises(SystemExit, match=r"so is that of streams\.py, which is written by hand"):
        generator.sources()


def test_all_but_the_names_stands_as_it_was(generator: ModuleType) -> None:
    source = '''\
"""A nursery of Trio's."""
import trio  # not trio.Event


async def f(nursery: trio.Nursery, *, x=1):  # a nursery,   and trio.Event
    s = f"{x!r:>{10}} {trio.current_time():.3f} 'q' {{}}"  ;  t = r"\\d"
    async with trio.open_nursery(  # why
    ) as own_nursery, \\
            trio.lowlevel.checkpoint() as y:
        pass
    return x.trio, s, """
    as   it   stands   """
'''
    assert mapped(generator, source) == (
        source.replace("import trio", "import @")
        .replace("nursery: trio.Nursery", "task_group: anyio.abc.TaskGroup")
        .replace("trio.current_time", "streams.current_time")
        .replace("trio.open_nursery", "anyio.create_task_group")
        .replace("own_nursery", "own_task_group")
        .replace("trio.lowlevel.checkpoint", "anyio.lowlevel.checkpoint")
        .replace("trio.Event", "anyio.Event")
        .replace("A nursery of Trio's", "A task group of AnyIO's")
        .replace("a nursery,", "a task group,")
        .replace("import @", "import trio")
    )


def test_each_entry_of_the_tables_is_used(generator: ModuleType) -> None:
    sources = [path.read_text(encoding="utf-8") for path in generator.SOURCE.glob("*.py") if path.name != "streams.py"]
    text = "\n".join(sources)
    unused = [name for name in generator.NAMES if not re.search(rf"\b{re.escape(name)}\b(?!\.)", text)]
    assert unused == []
    assert [word for word in generator.WORDS if not re.search(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", text)] == []


# The project's own name, and its folder of that name.
HARMLESS = re.compile(r"trio[_-]sentinel[_-]scan|_trio/")
# (A Pub/Sub channel is Redis's word, and stays.)
TRIOS = re.compile(
    r"trio|nurser|memory channel|send_channel|receive_channel|Memory\w*Channel|EndOfChannel", re.IGNORECASE
)


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_nothing_of_trios_is_left(path: Path) -> None:
    """Neither a name nor a word that an asyncio user would look for in vain."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    assert header.startswith("# Generated from ")
    assert [line for line in lines if TRIOS.search(HARMLESS.sub("", line))] == []
