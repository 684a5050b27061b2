"""From a command as redis-py's methods give it to one that can be sent: by what was learned of its name before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .commands import Command, has_telling_words, read_command

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CommandReader"]

# Names that are remembered. There are some 500 commands; a caller that makes up names gets no more than this.
_MOST: Final = 2_000
# What becomes the same bytes by hiredis as by redis-py's encoder, if that encodes as UTF-8. (bool is not int here.)
_PLAIN: Final = frozenset({str, bytes, int})


class CommandReader:
    """Reads the commands of one client, whose own encoder is asked for whatever is not plain."""

    def __init__(self, encode: Callable[[Any], bytes], *, is_utf8: bool) -> None:
        self._encode = encode
        self._plain = _PLAIN if is_utf8 else frozenset[type]()
        # First arguments that are a name and nothing else, and of which nothing but the name decides.
        self._names: dict[str, str] = {}

    def read(self, args: tuple[Any, ...], *, leased: bool = False) -> Command:
        """A command, checked and with its arguments encoded. Raises as `read_command` and redis-py's encoder do."""
        name = self._names.get(args[0]) if type(args[0]) is str else None
        if name is not None:
            command = Command(name, args)
        else:
            command = read_command(args, leased=leased)
            if command.args == args and args[0] and not has_telling_words(command) and len(self._names) < _MOST:
                self._names[args[0]] = command.name
        for arg in command.args:
            if type(arg) not in self._plain:
                return Command(command.name, tuple(map(self._encode, command.args)), command.place)
        return command
