"""Sessions and pools of HTTP connections: kept open, verified, and limited in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

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
    """The adapter of `requests`, with connections to which `time_limit` applies."""

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*arguments, **keywords)
        _limited(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **keywords: Any) -> Any:
        """Make the pools of connections through a proxy."""
        return _limited(super().proxy_manager_for(*arguments, **keywords))

    def pool(
        self, request: requests.PreparedRequest, settings: Mapping[str, Any]
    ) -> tuple[HTTPConnectionPool, str]:
        """The connections for a request, and what stands before its path."""
        proxies = settings["proxies"]
        pool = self.get_connection_with_tls_context(request, settings["verify"], proxies=proxies)
        assert isinstance(pool, HTTPConnectionPool)
        target = self.request_url(request, proxies)
        return pool, str(request.url).rstrip("/") if "://" in target else ""


def _limited(manager: urllib3.PoolManager) -> urllib3.PoolManager:
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
