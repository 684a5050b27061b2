"""The public names: each is meant, is there once, and says that it lives where users import it from."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

FACES = ["trio_sentinel_scan", "trio_sentinel_scan.testing"]

# Packages below the first one that are public themselves, or (cli) are named by an entry point.
PUBLIC_PACKAGES = {"anyio", "cli", "testing"}


def declared_names(module: ModuleType) -> list[str]:
    """The names that the source of `module` re-exports, as a type checker reads it: "X as X", or a name in __all__."""
    assert module.__file__ is not None
    names: list[str] = []
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom():
                names += [alias.name for alias in node.names if alias.asname == alias.name]
            case ast.Assign(targets=[ast.Name("__all__")]) | ast.AnnAssign(target=ast.Name("__all__")):
                assert node.value is not None
                names += ast.literal_eval(node.value)
            case _:
                pass
    return [name for name in names if not name.startswith("_")]


def found_names(module: ModuleType) -> set[str]:
    """The names without an underscore that `module` has when it is imported."""
    packages = {
        name for name in PUBLIC_PACKAGES if inspect.ismodule(vars(module).get(name)) and module.__name__ == FACES[0]
    }
    future = {"annotations"}  # what "from __future__ import annotations" leaves behind
    return {name for name in vars(module) if not name.startswith("_")} - packages - future


def public_things() -> list[tuple[str, str, object]]:
    """(face, name, thing) of every public class and function."""
    return [
        (face, name, thing)
        for face in FACES
        for name, thing in sorted(vars(importlib.import_module(face)).items())
        if not name.startswith("_") and (inspect.isclass(thing) or inspect.isroutine(thing))
    ]


@pytest.mark.parametrize("face", FACES)
def test_what_is_there_is_what_is_declared(face: str) -> None:
    """Neither a helper that shows by accident nor a name that only a type checker knows."""
    module = importlib.import_module(face)
    assert found_names(module) == set(declared_names(module))


@pytest.mark.parametrize("face", FACES)
def test_each_name_is_declared_once(face: str) -> None:
    declared = declared_names(importlib.import_module(face))
    assert sorted(declared) == sorted(set(declared))


def test_each_thing_has_one_name() -> None:
    names: dict[int, list[str]] = {}
    for face, name, thing in public_things():
        names.setdefault(id(thing), []).append(f"{face}.{name}")
    assert [several for several in names.values() if len(several) > 1] == []


def test_each_thing_says_that_it_lives_where_it_is_imported_from() -> None:
    """Tracebacks, pickles and documentation show the public path, not the private module behind it."""
    assert {f"{face}.{name}": thing.__module__ for face, name, thing in public_things()} == {
        f"{face}.{name}": face for face, name, thing in public_things()
    }


def test_each_thing_is_documented() -> None:
    assert [f"{face}.{name}" for face, name, thing in public_things() if not inspect.getdoc(thing)] == []


def test_the_version_is_one() -> None:
    package = importlib.import_module(FACES[0])
    assert importlib.import_module(f"{FACES[0]}._version").__version__ == package.__version__
