"""Limits the time of a whole HTTP exchange, even if its bytes arrive slowly.

The timeouts of urllib3 and `requests` limit each wait for more bytes, not the sum of all waits: an
answer of one byte a second could take hours.
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
    """An exchange did not end in time."""


class _Exchange:
    """One request and its answer; `socket` is set when the request has been sent.

    An exchange inside another one, such as one for a token, must end before the outer deadline.
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
    """Ends exchanges that are past their deadline, in its own thread."""

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
            # Under the lock, so that it closes no connection that another exchange already uses.
            with self._lock:
                for exchange in [e for e in self._exchanges if e.deadline < now]:
                    _cut_off(exchange)


def _cut_off(exchange: _Exchange) -> None:
    """End the exchange. Never raises: without the watching thread there would be no limits."""
    exchange.over = True
    connected = exchange.socket
    # With a TLS proxy, the TLS connection to the service is inside the one to the proxy.
    while isinstance(connected, SSLTransport):
        connected = connected.socket
    if connected is not None:
        # Shut down the plain socket: a TLS socket would drop its state while a reader uses it. An
        # error means that it is closed already, or can't be closed from another thread.
        with suppress(Exception):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


_watch = _Watch()
_current = threading.local()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limits the exchanges that this thread makes inside the block. Raises TooSlow.

    Limits can be nested: the earliest deadline applies.
    """
    exchange = _Exchange(seconds, _exchange())
    _current.exchange = exchange
    _watch.begin(exchange)
    try:
        yield
    except Exception:
        # Replace whatever error the library raised for the closed connection.
        if exchange.over:
            raise TooSlow(f"no complete answer within {seconds:g} s") from None
        raise
    finally:
        _watch.end(exchange)
        _current.exchange = exchange.outer


def note_socket(connection: HTTPConnection) -> None:
    """Apply the limit of this thread, if there is one, to the socket of this connection."""
    if exchange := _exchange():
        exchange.socket = connection.sock


def seconds_left() -> float:
    """Seconds until the deadline of this thread; -1 without a limit, as lock timeouts expect."""
    exchange = _exchange()
    return max(0.0, exchange.deadline - time.monotonic()) if exchange else -1


def _exchange() -> _Exchange | None:
    return getattr(_current, "exchange", None)
