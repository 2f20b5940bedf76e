"""Sessions and pools of HTTP connections: reused, verified, and limited in time."""

from __future__ import annotations

import ssl
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from connections.network import network, tls_context
from connections.time_limit import note_socket


class _Connection(HTTPConnection):
    def getresponse(self) -> Any:
        note_socket(self)
        return super().getresponse()


class _TLSConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        note_socket(self)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class Adapter(HTTPAdapter):
    """An adapter for `requests` that obeys `time_limit`, and uses the process's proxy and CA."""

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Create the pools of direct connections."""
        super().init_poolmanager(*arguments, **keywords)
        _limited(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **keywords: Any) -> Any:
        """Create the pools of connections through a proxy."""
        if proxy.startswith("https:"):
            keywords["proxy_ssl_context"] = tls_context()
        return _limited(super().proxy_manager_for(proxy, **keywords))

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """The key of a pool: the server and the TLS context; `verify` may name a CA file."""
        host, _ = super().build_connection_pool_key_attributes(request, True, cert)
        if host["scheme"] != "https":
            return host, {}
        return host, {"ssl_context": tls_context(verify if isinstance(verify, str) else None)}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context verifies, so that no connection reads the CA list again."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **keywords: Any) -> Any:
        """Send a request, through a proxy if there is one for its URL."""
        keywords["proxies"] = network().proxies_for(str(request.url))
        return super().send(request, *arguments, **keywords)

    def pool(self, request: requests.PreparedRequest) -> tuple[HTTPConnectionPool, str]:
        """The pool for a request, and the text before its path (the server, for some proxies)."""
        proxies = network().proxies_for(str(request.url))
        pool = self.get_connection_with_tls_context(request, True, proxies=proxies)
        assert isinstance(pool, HTTPConnectionPool)
        target = self.request_url(request, proxies)
        return pool, str(request.url).rstrip("/") if "://" in target else ""


def _limited(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def session(connections: int) -> requests.Session:
    """A session that keeps this many connections open."""
    made = requests.Session()
    # The adapter applies proxies and certificates from the environment; ~/.netrc is not used.
    made.trust_env = False
    for scheme in ("https://", "http://"):
        made.mount(scheme, Adapter(pool_maxsize=connections))
    return made


def pool(url: str, connections: int) -> tuple[HTTPConnectionPool, str]:
    """The pool for the server of `url`, and the text before a path in its requests.

    A request by a pool takes a third of the CPU of one by a session.
    """
    made = session(connections)
    adapter = made.get_adapter(url)
    assert isinstance(adapter, Adapter)
    return adapter.pool(made.prepare_request(requests.Request("GET", url)))


def is_unverified(error: BaseException) -> bool:
    """Whether a connection failed because the server's certificate could not be verified.

    Retrying does not help then. `requests` and urllib3 wrap that error in their own ones.
    """
    seen: list[BaseException] = [error]
    for one in seen:
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in seen)
