"""The limit of an exchange holds whatever kind of connection it has."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.util.ssltransport import SSLTransport

from connections.time_limit import TooSlow, note_socket, time_limit


def tls_in_tls(inner: Any) -> SSLTransport:
    """The kind of socket that a connection through an HTTPS proxy has, without its handshake."""
    transport = SSLTransport.__new__(SSLTransport)
    transport.socket = inner
    return transport


def wait_for_the_end(ours: socket.socket, noted: Any) -> None:
    with pytest.raises(TooSlow), time_limit(0.01):
        note_socket(SimpleNamespace(sock=noted))  # type: ignore[arg-type]
        assert ours.recv(1) == b"", "closed from outside, or the time-out of this socket"
        raise ConnectionError


@pytest.mark.parametrize("wrap", [lambda s: s, tls_in_tls, lambda s: tls_in_tls(tls_in_tls(s))])
def test_an_exchange_is_cut_off(wrap: Any) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    with ours, theirs:
        wait_for_the_end(ours, wrap(ours))


def test_the_watch_survives_what_can_not_be_closed() -> None:
    with time_limit(0.01):
        note_socket(SimpleNamespace(sock=object()))  # type: ignore[arg-type]
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        with ours, theirs:
            wait_for_the_end(ours, ours)
