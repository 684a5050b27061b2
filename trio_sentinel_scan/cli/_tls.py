"""TLS as the options describe it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """What redis-cli has, and means the same, but for one thing: without `insecure` the host's name is checked too."""

    tls: bool = False
    cacert: Path | None = None
    cacertdir: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    sni: str | None = None
    insecure: bool = False

    @property
    def details(self) -> list[str]:
        """The options that were given and mean nothing without TLS."""
        names = ("cacert", "cacertdir", "cert", "key", "sni", "insecure")
        return [f"--{name}" for name in names if getattr(self, name)]

    def context(self) -> ssl.SSLContext:
        """The context for it. Raises ConfigError for a file that cannot be used."""
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.wanted_name = self.sni
        # What Python holds to be right for a client, which differs from version to version.
        context.verify_flags = ssl.create_default_context().verify_flags
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.cacert is None and self.cacertdir is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(self.cacert, self.cacertdir)
        except OSError as error:
            raise ConfigError("cacert", f"has no certificates that can be used: {_reason(error)}") from None
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as error:
                raise ConfigError("cert", f"cannot be used with its key: {_reason(error)}") from None
        elif self.key is not None:
            raise ConfigError("key", "wants --cert beside it")
        return context


class _Context(ssl.SSLContext):
    """One that asks every server for the same name, where there is a `wanted_name`."""

    wanted_name: str | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 (as in the base class)
        server_hostname: str | bytes | None = None,
        session: Any = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.wanted_name or server_hostname, session)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not in PEM format"
    return error.strerror or str(error)
