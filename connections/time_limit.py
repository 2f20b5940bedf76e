"""HTTP connections that both sides of the job share: kept open, verified, and limited in time.

The timeouts of urllib3, and with it of `requests`, bound each wait for the next few bytes, not all
of them together: an answer that drips a byte a second would go on for hours. `time_limit` bounds
the whole exchange.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_WATCH_SECONDS = 0.25


class TooSlow(Exception):
    """An exchange was not over in time."""


class _Exchange:
    """One request and its answer; `socket` is known from when the request is on its way."""

    __slots__ = ("deadline", "over", "socket")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.over = False
        self.socket: socket.socket | None = None


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
            # Under the lock, so that no connection is hit that another exchange has by then.
            with self._lock:
                for exchange in [e for e in self._exchanges if e.deadline < now]:
                    _cut_off(exchange)


def _cut_off(exchange: _Exchange) -> None:
    exchange.over = True
    if exchange.socket is not None:
        # Of the plain socket: the TLS one would drop its state under the reader's feet. An error
        # says that it is closed already.
        with suppress(OSError):
            socket.socket.shutdown(exchange.socket, socket.SHUT_RDWR)


_watch = _Watch()
_current = threading.local()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bounds the exchanges that this thread makes inside. Raises TooSlow."""
    exchange = _Exchange(time.monotonic() + seconds)
    _current.exchange = exchange
    _watch.begin(exchange)
    try:
        yield
    except Exception:
        # Whatever the library made of the connection that was cut off under it.
        if exchange.over:
            raise TooSlow(f"no whole answer within {seconds:g} s") from None
        raise
    finally:
        _watch.end(exchange)
        _current.exchange = None


def _note_socket(connection: HTTPConnection) -> None:
    exchange = getattr(_current, "exchange", None)
    if exchange is not None:
        exchange.socket = connection.sock


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        _note_socket(self)
        return super().getresponse()


class _TLSConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _note_socket(self)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class Adapter(HTTPAdapter):
    """The adapter of `requests`, with connections to which `time_limit` applies."""

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*arguments, **keywords)
        _limit(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **keywords: Any) -> Any:
        """Make the pools of connections through a proxy."""
        return _limit(super().proxy_manager_for(*arguments, **keywords))

    def pool(
        self, request: requests.PreparedRequest, settings: Mapping[str, Any]
    ) -> tuple[HTTPConnectionPool, str]:
        """The connections for a request, and what stands before its path."""
        proxies = settings["proxies"]
        pool = self.get_connection_with_tls_context(request, settings["verify"], proxies=proxies)
        assert isinstance(pool, HTTPConnectionPool)
        target = self.request_url(request, proxies)
        return pool, str(request.url).rstrip("/") if "://" in target else ""


def _limit(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def session(connections: int) -> requests.Session:
    """A session that keeps so many connections open."""
    made = requests.Session()
    for scheme in ("https://", "http://"):
        made.mount(scheme, Adapter(pool_maxsize=connections))
    return made


def pool(url: str, connections: int) -> tuple[HTTPConnectionPool, str]:
    """The connections to the server of `url`, and what stands before a path in its requests.

    Proxy and certificates are as `requests` finds them in the environment. A request made straight
    from the pool costs a third of the CPU of one of a session.
    """
    made = session(connections)
    adapter = made.get_adapter(url)
    assert isinstance(adapter, Adapter)
    found = made.merge_environment_settings(url, {}, False, None, None)
    return adapter.pool(made.prepare_request(requests.Request("GET", url)), found)
