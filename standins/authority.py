"""A certificate authority for the stand-ins, so that they talk TLS as the real services do."""

from __future__ import annotations

import ssl

import trustme

HOST = "127.0.0.1"
"""Where all stand-ins listen."""


class Authority:
    """An authority that nobody knows, until its certificate is in a list that one is told of."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def certificate(self) -> str:
        """Its own certificate, in PEM."""
        return self._ca.cert_pem.bytes().decode()

    def context(self, name: str = HOST) -> ssl.SSLContext:
        """What a server of this name needs in order to talk TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name).configure_cert(context)
        return context
