# Generated from _trio/tls.py by `nox -s anyio`: change that file, never this one.
"""TLS contexts as arguments."""

from __future__ import annotations

import ssl as ssl_module

from .._core.errors import ConfigError

__all__ = ["checked_ssl"]


def checked_ssl(value: object, argument: str) -> ssl_module.SSLContext | None:
    """A TLS context; True stands for the default one (the system's certificates, host names checked)."""
    if value is None or value is False:
        return None
    if value is True:
        return ssl_module.create_default_context()
    if not isinstance(value, ssl_module.SSLContext):
        raise ConfigError(argument, "must be an ssl.SSLContext, or True for the default one")
    return value
