"""Write trio_sentinel_scan/anyio/ from trio_sentinel_scan/_trio/: the same client on AnyIO, from one source.

    python .ci/anyio_edition.py           writes the edition
    python .ci/anyio_edition.py --check   says which of its files are not what would be written, and fails if one is

The two APIs differ by some names, which `NAMES` and `WORDS` map, token by token: comments and formatting stay, and ruff
sorts the imports again. What no name maps does not belong in _trio, outside of streams.py, the one file that is written
by hand on both sides: change the Trio source until both read well, never what comes out here.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "trio_sentinel_scan"
SOURCE, RESULT = PACKAGE / "_trio", PACKAGE / "anyio"
BY_HAND = "streams.py"

# What stands for each name of Trio's that the source uses. One that is not here is an error, not passed through.
# Names of `streams` are those that AnyIO has not, or not as fast, or not as safe (see there).
NAMES = {
    "trio.BrokenResourceError": "anyio.BrokenResourceError",
    "trio.CancelScope": "anyio.CancelScope",
    "trio.Cancelled": "anyio.get_cancelled_exc_class()",
    "trio.ClosedResourceError": "anyio.ClosedResourceError",
    "trio.EndOfChannel": "anyio.EndOfStream",
    "trio.Event": "anyio.Event",
    "trio.Lock": "anyio.Lock",
    "trio.MemoryReceiveChannel": "streams.ReceiveStream",
    "trio.MemorySendChannel": "streams.SendStream",
    "trio.Nursery": "anyio.abc.TaskGroup",
    "trio.Semaphore": "anyio.Semaphore",
    "trio.WouldBlock": "anyio.WouldBlock",
    "trio.abc.ReceiveChannel": "anyio.abc.ObjectReceiveStream",
    "trio.current_time": "streams.current_time",
    "trio.lowlevel.cancel_shielded_checkpoint": "anyio.lowlevel.cancel_shielded_checkpoint",
    "trio.lowlevel.checkpoint": "anyio.lowlevel.checkpoint",
    "trio.lowlevel.checkpoint_if_cancelled": "anyio.lowlevel.checkpoint_if_cancelled",
    "trio.move_on_after": "anyio.move_on_after",
    "trio.open_memory_channel": "streams.open_memory_stream",
    "trio.open_nursery": "anyio.create_task_group",
    "trio.sleep": "anyio.sleep",
    "trio.sleep_forever": "anyio.sleep_forever",
    "trio.to_thread.run_sync": "anyio.to_thread.run_sync",
}

# The words for the same things: in identifiers, in names of modules, in comments and in docstrings. Longest first.
WORDS = {
    "open_service_nursery": "open_service_task_group",
    "MemorySendChannel": "SendStream",
    "memory channel": "memory stream",
    "EndOfChannel": "EndOfStream",
    "nurseries": "task_groups",
    "Nursery": "TaskGroup",
    "nursery": "task_group",
    "receive_channel": "receive_stream",
    "send_channel": "send_stream",
    "Trio": "AnyIO",
}
# In prose two words stay two words.
PROSE = {"task_groups": "task groups", "task_group": "task group"}

DOTTED = re.compile(r"\btrio(?:\.\w+)+")
WORD = re.compile("|".join(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])" for word in WORDS))
# Modules that a dotted name of the result needs imported, each by its own statement.
SUBMODULES = ("anyio.abc", "anyio.lowlevel", "anyio.to_thread")


def main() -> int:
    """Write the edition, or check it."""
    wanted = edition()
    if "--check" not in sys.argv[1:]:
        RESULT.mkdir(exist_ok=True)
        for path in stale(wanted):
            if path.name in wanted:
                path.write_text(wanted[path.name], encoding="utf-8")
            else:
                path.unlink()
        return 0
    different = stale(wanted)
    for path in different:
        print(f"{path.relative_to(PACKAGE.parent)} is not what its source says; run `nox -s anyio`", file=sys.stderr)  # noqa: T201
    return 1 if different else 0


def stale(wanted: dict[str, str]) -> list[Path]:
    """The files of the edition that are missing, differ, or have no source any more."""
    names = {path.name for path in RESULT.glob("*.py")} | wanted.keys()
    return [
        RESULT / name
        for name in sorted(names - {BY_HAND})
        if not (RESULT / name).exists() or (RESULT / name).read_text(encoding="utf-8") != wanted.get(name)
    ]


def edition() -> dict[str, str]:
    """Every generated file's name and text."""
    files = {result: translated(path, "_trio/") for result, path in sources().items()}
    return files | {"__init__.py": translated(PACKAGE / "__init__.py", "")}


def sources() -> dict[str, Path]:
    """What is translated, by the name of its result. Raises SystemExit where two sources have one."""
    found: dict[str, Path] = {}
    # (There are file systems to which case is nothing.)
    taken = {BY_HAND: f"{BY_HAND}, which is written by hand", "__init__.py": "the package's own __init__.py"}
    for path in sorted(SOURCE.glob("*.py")):
        if path.name in (BY_HAND, "__init__.py"):
            continue
        result = WORD.sub(word, path.name)
        if (other := taken.setdefault(result.lower(), path.name)) != path.name:
            msg = f"{path}: its result is {RESULT.name}/{result}, and so is that of {other}: give it another name"
            raise SystemExit(msg)
        found[result] = path
    return found


def translated(path: Path, folder: str) -> str:
    """A source file in AnyIO's names, formatted and with its imports in order."""
    text = path.read_text(encoding="utf-8")
    if not folder:
        text = public_names(text)
    try:
        refuse_untranslatable(path, text)
        text = "".join(mapped(text))
    except KeyError as missing:
        msg = f"{path}: no name is mapped for {missing}: use another one, or extend {Path(__file__).name}"
        raise SystemExit(msg) from None
    text = imports(text)
    header = f"# Generated from {folder}{path.name} by `nox -s anyio`: change that file, never this one.\n"
    return ruffed(header + text, RESULT / WORD.sub(word, path.name))


# What would pass through, and mean Trio, or the other edition, or two things by one name, in what comes out.
UNTRANSLATABLE = re.compile(
    r"^ *import +trio\b(?!\n)"
    r"|^ *import .*, *trio\b"
    r"|^ *from +[\w.]+ +import +(?:.*, *)?trio\b"
    r"|^ *from +\.\.(?:_trio\b| +import\b).*"
    r"|^ *(?:from|import) +(?:trio_sentinel_scan|anyio|asyncio)\b.*"
    r"|\b(?:task_groups?|send_stream|receive_stream|TaskGroup|EndOfStream)\b",
    re.MULTILINE,
)


def refuse_untranslatable(path: Path, text: str) -> None:
    """Raise SystemExit for the first thing that is not to be translated by names."""
    if path.parent == SOURCE.parent:
        return
    if (found := UNTRANSLATABLE.search(text)) is not None:
        row = text.count("\n", 0, found.start()) + 1
        msg = f"{path}:{row}: {found[0].strip()!r} cannot be translated: write `import trio`, and Trio's words alone"
        raise SystemExit(msg)
    refuse_words(path, text)


# A string of one word may be a key, an attribute, a name: it has no second word, and prose may not become of it.
ONE_WORD = re.compile(r"""[a-zA-Z]*(?:\"{3}|'{3}|"|')([^\s"'{}]+)(?:\"{3}|'{3}|"|')""")
# What says Trio and is meant for both editions: the project's own name.
OURS = re.compile(r"trio[_-]sentinel[_-]scan")
TRIO = re.compile("trio", re.IGNORECASE)


def refuse_words(path: Path, text: str) -> None:
    """Raise SystemExit for the first string, comment or name in which no table has a word that should have another."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            # (The module's own is for `mapped`.)
            unknown = token.string != "trio" and bool(TRIO.search(OURS.sub("", WORD.sub(word, token.string))))
            what = "the name"
        else:
            result = prose(token.string)
            is_one_word = ONE_WORD.fullmatch(token.string) is not None
            unknown = (is_one_word and " " in result) or bool(TRIO.search(OURS.sub("", result)))
            what = "a string of one word" if is_one_word else "the text"
        if unknown:
            row = token.start[0]
            lines = token.string.splitlines()
            shown = next((line for line in lines if TRIO.search(OURS.sub("", prose(line)))), lines[0]).strip()
            msg = (
                f"{path}:{row}: {what} {shown!r} cannot be translated: no table has what stands for it. Say it in other"
                f" words, or extend {Path(__file__).name}"
            )
            raise SystemExit(msg)


def mapped(text: str) -> Iterator[str]:
    """The text, token by token, with what lies between them as it stands."""
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    at, number = (1, 0), 0
    while number < len(tokens):
        token = tokens[number]
        yield between(lines, at, token.start)
        if token.string == "trio" and token.type == tokenize.NAME and tokens[number - 1].string not in ("import", "."):
            name, number = dotted_name(tokens, number)
            yield NAMES[name]
        else:
            as_it_stands = between(lines, token.start, token.end)
            yield (WORD.sub(word, as_it_stands) if token.type == tokenize.NAME else prose(as_it_stands))
        at = tokens[number].end
        number += 1


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """What stands between two places, each a row (from 1) and a column (from 0)."""
    rows = lines[start[0] - 1 : end[0]]
    if rows and end[0] <= len(lines):
        rows[-1] = rows[-1][: end[1]]
    return "".join(rows)[start[1] :]


def dotted_name(tokens: list[tokenize.TokenInfo], number: int) -> tuple[str, int]:
    """The longest name in `NAMES` that begins at this token, or the longest there is; and where it ends."""
    name = longest = tokens[number].string
    end = number
    while tokens[number + 1].string == "." and tokens[number + 2].type == tokenize.NAME:
        number += 2
        name += f".{tokens[number].string}"
        if name in NAMES or longest not in NAMES:
            longest, end = name, number
    return longest, end


def word(found: re.Match[str]) -> str:
    """AnyIO's word."""
    return WORDS[found[0]]


def prose(text: str) -> str:
    """A comment, or a string."""
    text = DOTTED.sub(lambda found: NAMES.get(found[0], found[0]), text)
    return WORD.sub(lambda found: PROSE.get(WORDS[found[0]], WORDS[found[0]]), text)


def imports(text: str) -> str:
    """What the result uses, imported where Trio was."""
    wanted = [name for name in SUBMODULES if f"{name}." in text]
    if re.search(r"\banyio\.(?!abc\.|lowlevel\.|to_thread\.)\w", text):
        wanted.insert(0, "anyio")
    lines = [f"import {name}" for name in wanted]
    if re.search(r"(?<![\w.])streams\.\w", text):
        lines.append("from . import streams")
    return re.sub(
        r"^( *)import trio\n", lambda found: "".join(f"{found[1]}{line}\n" for line in lines), text, flags=re.MULTILINE
    )


def public_names(text: str) -> str:
    """The package's own front, one floor further in: what is decided in _core is the same for both editions."""
    comment_ends = text.index('"""')
    text = text[comment_ends:].replace("from ._trio.", "from @.").replace("from ._", "from .._")
    return text.replace("from @.", "from .")


def ruffed(text: str, path: Path) -> str:
    """Formatted as the rest of the project is, with sorted imports."""
    for command in (("check", "--select", "I,F401", "--fix-only", "--quiet"), ("format", "--quiet")):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


if __name__ == "__main__":
    sys.exit(main())
