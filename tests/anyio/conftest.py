"""One suite for both editions: a test that asks for `edition` is a plain async function, and runs on each back end.

It is written in AnyIO's words, which native Trio understands, too. By default it runs on asyncio and on one of the
other back ends; on all four for `nox -s full`.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator
from functools import partial

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.anyio.editions import EDITIONS, Edition
from tests.anyio.in_thread import Servers, servers_in
from tests.conftest import missing

ALWAYS = "anyio-asyncio"

pytest.register_assert_rewrite("tests.anyio.scenes", "tests.real.scenes", "tests.real.histories", "tests.real.radio")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "edition" not in metafunc.fixturenames:
        return
    others = [name for name in EDITIONS if name != ALWAYS]
    # Which of the others it is has no meaning, but is the same in every process.
    also = others[zlib.crc32(metafunc.definition.name.encode()) % len(others)]
    metafunc.parametrize(
        "edition",
        [
            pytest.param(edition, id=name, marks=() if name in (ALWAYS, also) else (pytest.mark.full,))
            for name, edition in EDITIONS.items()
        ],
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the test on its edition's loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "edition" not in pyfuncitem.funcargs:
        return None
    edition = pyfuncitem.funcargs["edition"]
    assert isinstance(edition, Edition)
    if edition.missing:
        # uvloop is not made for every platform.
        missing(edition.missing, "pip install uvloop")
    names = inspect.signature(pyfuncitem.obj).parameters
    edition.run(partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture(scope="session")
def harness_thread() -> Iterator[BlockingPortal]:
    """The thread in which Trio runs, for the servers."""
    with start_blocking_portal("trio") as portal:
        yield portal


@pytest.fixture
def servers(harness_thread: BlockingPortal) -> Servers:
    """Starts real servers: `async with servers(LocalRedis()) as server`."""
    return servers_in(harness_thread)
