"""Certificates for servers that speak TLS, made on the spot."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from ._errors import TlsUnavailable


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files that a TLS server needs, and that its clients trust. All are PEM."""

    ca: Path
    """The authority's certificate, for those who check the server's."""

    certificate: Path
    """The server's certificate, with its chain."""

    key: Path
    """The server's private key."""

    def client_context(self) -> ssl.SSLContext:
        """Make a client's context that trusts these servers only, and checks their names."""
        return ssl.create_default_context(cafile=str(self.ca))


def make_test_certificates(directory: str | os.PathLike[str], *names: str) -> Certificates:
    """Make a certificate authority and one server certificate signed by it.

    The certificate is good for ``localhost``, ``127.0.0.1`` and ``::1``, and for the names given besides.
    All servers of a test may share it.

    Args:
        directory: where to write the files; it must exist.
        names: more host names or addresses that the certificate is to be good for.

    Raises:
        TlsUnavailable: the package ``trustme`` is not installed.

    """
    try:
        import trustme  # noqa: PLC0415 - needed by this function only, and by nothing that users run
    except ImportError:
        raise TlsUnavailable("making test certificates needs trustme: pip install trustme") from None
    folder = Path(directory)
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1", *names)
    made = Certificates(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key")
    authority.cert_pem.write_to_path(str(made.ca))
    server.private_key_pem.write_to_path(str(made.key))
    for position, pem in enumerate(server.cert_chain_pems):
        pem.write_to_path(str(made.certificate), append=position > 0)
    return made
