"""Limits the time of a whole HTTP exchange, however slowly its bytes come.

The timeouts of urllib3, and with it of `requests`, bound each wait for the next few bytes, not all
of them together: an answer that sends one byte a second would go on for hours.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from urllib3.connection import HTTPConnection
from urllib3.util.ssltransport import SSLTransport

_WATCH_SECONDS = 0.25


class TooSlow(Exception):
    """An exchange was not over in time."""


class _Exchange:
    """One request and its answer; `socket` is known once the request has been sent.

    An exchange made inside another one, such as that for a token, has no longer than the outer one.
    """

    __slots__ = ("deadline", "outer", "over", "socket")

    def __init__(self, seconds: float, outer: _Exchange | None) -> None:
        self.deadline = time.monotonic() + seconds
        if outer:
            self.deadline = min(self.deadline, outer.deadline)
        self.outer = outer
        self.over = False
        self.socket: socket.socket | SSLTransport | None = None


class _Watch:
    """Ends the exchanges that are past their deadline, from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exchanges: set[_Exchange] = set()
        self._thread: threading.Thread | None = None

    def begin(self, exchange: _Exchange) -> None:
        with self._lock:
            self._exchanges.add(exchange)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()

    def end(self, exchange: _Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)

    def _run(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            # Under the lock, so that no connection is closed that another exchange has by then.
            with self._lock:
                for exchange in [e for e in self._exchanges if e.deadline < now]:
                    _cut_off(exchange)


def _cut_off(exchange: _Exchange) -> None:
    """End the exchange. Raises nothing: no limit would hold if the watching thread died."""
    exchange.over = True
    connected = exchange.socket
    # To a proxy with TLS, the TLS of the service goes through that of the proxy.
    while isinstance(connected, SSLTransport):
        connected = connected.socket
    if connected is not None:
        # Of the plain socket: the TLS one would drop its state while a reader still uses it. An
        # error says that it is closed already, or nothing that can be closed from outside.
        with suppress(Exception):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


_watch = _Watch()
_current = threading.local()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bounds the exchanges that this thread makes inside. Raises TooSlow.

    Limits nest: the one that ends first holds, and an outer one holds again behind an inner one.
    """
    exchange = _Exchange(seconds, _exchange())
    _current.exchange = exchange
    _watch.begin(exchange)
    try:
        yield
    except Exception:
        # Whatever the library made of the connection that was closed.
        if exchange.over:
            raise TooSlow(f"no whole answer within {seconds:g} s") from None
        raise
    finally:
        _watch.end(exchange)
        _current.exchange = exchange.outer


def note_socket(connection: HTTPConnection) -> None:
    """The limit of this thread, if there is one, applies to the socket of this connection."""
    if exchange := _exchange():
        exchange.socket = connection.sock


def seconds_left() -> float:
    """How long this thread may still take by its limits; -1, as locks have it, for no limit."""
    exchange = _exchange()
    return max(0.0, exchange.deadline - time.monotonic()) if exchange else -1


def _exchange() -> _Exchange | None:
    return getattr(_current, "exchange", None)
