"""Somebody else on the same server: GETs at a steady pace, each one timed, over a plain socket."""

from __future__ import annotations

import socket
import time

from . import Stage


def probe(stage: Stage) -> None:
    key = stage.task["key"].encode()
    question = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)
    pause = 1 / stage.task["per_second"]
    with socket.create_connection((stage.host, stage.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer_size = len(_ask(connection, question))
        stage.ready()
        milliseconds = []
        due = time.perf_counter()
        end = due + stage.task["at_least"]
        while due < end:
            asked = time.perf_counter()
            if asked < due:
                time.sleep(due - asked)
                asked = time.perf_counter()
            else:
                # The one before it took so long that this one was kept waiting: that counts.
                asked = due
            answer = _ask(connection, question)
            milliseconds.append((time.perf_counter() - asked) * 1000)
            assert len(answer) == answer_size
            due += pause
        stage.done(milliseconds=milliseconds)


def _ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    # A reply of this size comes in one piece.
    return connection.recv(4096)


if __name__ == "__main__":
    probe(Stage())
