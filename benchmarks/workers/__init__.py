"""The programs that are measured, one process for each run. In whatever language, each

1. is given its task as arguments, connects, and prints a line of JSON (it may name versions);
2. waits for a line on stdin, does its task, and prints a line of JSON: ``{"seconds": ..., ...}``;
3. waits for another line (or the end of stdin), so that it can be looked at before it goes.

What it used of the machine is read from outside, between its first line and its second: see ../runs.py.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

CHANNEL = "bench"


@dataclass
class Stage:
    """The steps above, for workers in Python; the task is JSON in the first argument."""

    task: dict[str, Any] = field(default_factory=lambda: json.loads(sys.argv[1]))
    _began: float = 0.0
    _turns: int = 0
    # Kept, so that the server does not find it closed.
    _publisher: socket.socket | None = None

    @property
    def host(self) -> str:
        return str(self.task["host"])

    @property
    def port(self) -> int:
        return int(self.task["port"])

    @property
    def scan_arguments(self) -> dict[str, Any]:
        """What is to be said beyond the client's defaults: nothing, if nothing was asked for."""
        return {name: self.task[name] for name in ("match", "count") if self.task.get(name) is not None}

    def ready(self, **said: object) -> None:
        """Connected. Returns when the clock is running."""
        print(json.dumps(said), flush=True)
        sys.stdin.readline()
        self._began = time.perf_counter()

    def again(self) -> bool:
        """True once, and on until the time is over for which the task is to be repeated."""
        self._turns += 1
        return self._turns == 1 or time.perf_counter() - self._began < self.task.get("at_least", 0)

    def publish(self) -> None:
        """Have the server publish everything, by itself and in one go; nothing here waits for that."""
        script = "for _ = 1, ARGV[1] do redis.call('PUBLISH', KEYS[1], ARGV[2]) end"
        words = ["EVAL", script, "1", CHANNEL, str(self.task["messages"]), self.task["data"]]
        command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self._publisher = socket.create_connection((self.host, self.port))
        self._publisher.sendall(command.encode())

    def done(self, **figures: object) -> None:
        """Stop the clock, and be looked at."""
        seconds = time.perf_counter() - self._began
        print(json.dumps({"seconds": seconds, **figures}), flush=True)
        sys.stdin.readline()
