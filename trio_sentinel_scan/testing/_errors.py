"""What the test servers raise: one family, so that ``except HarnessError`` means "my set-up", never "my code"."""

from __future__ import annotations


class HarnessError(Exception):
    """Base of every error of :mod:`trio_sentinel_scan.testing`.

    Such an error is about the test's servers. It is never raised for what the code under test does.
    """


class ServerBinaryNotFound(HarnessError):
    """No server program was found, or the one that was asked for cannot be run."""


class TlsUnavailable(HarnessError):
    """TLS was asked for, and the server was built without it, or ``trustme`` is not installed."""


class ServerStartFailed(HarnessError):
    """A server process ended instead of starting to serve; the message quotes the end of its log."""


class ServerNotRunning(HarnessError):
    """There is no running process to act on, or it closed the connection instead of answering."""


class ServerUnresponsive(HarnessError):
    """A server did not get where it should within the harness's patience; its log's end is quoted."""


class CommandFailed(HarnessError):
    """A server answered a harness command with an error reply."""

    reply: str
    """The error as the server sent it, for example ``"NOGOODSLAVE No suitable replica to promote"``."""

    code: str
    """The reply's first word, for example ``"NOGOODSLAVE"``."""

    def __init__(self, reply: str) -> None:
        super().__init__(f"the server answered with an error: {reply}")
        self.reply = reply
        self.code = reply.partition(" ")[0]


class PortTaken(HarnessError):
    """Another process got hold of the port first. Handled inside the harness by trying again."""
