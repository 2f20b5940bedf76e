"""Reads the proxy and certificate settings once, for all connections."""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy, should_bypass_proxies
from urllib3.util.ssl_ import create_urllib3_context

CA_SETTINGS = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""The first one that is set is used: a file, or a directory of certificates named by their hashes
(by `openssl rehash`). If none is set, the list of the package `certifi` is used."""

_PROXY_SETTINGS = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "all": "ALL_PROXY"}
_SETTINGS = (*CA_SETTINGS, *_PROXY_SETTINGS.values(), "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Network:
    """How to reach the services. `ca` is a file or a directory; proxies by the scheme they serve.

    A proxy's URL can hold a password.
    """

    ca: Path
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_proxy: str = ""

    def proxies_for(self, url: str) -> dict[str, str]:
        """The proxies for requests to this URL, for `requests`; empty for a direct one."""
        parts = urlsplit(url)
        direct = _is_direct(f"{parts.scheme}://{parts.netloc}", self.no_proxy)
        return {} if direct or not select_proxy(url, self.proxies) else dict(self.proxies)

    def context(self) -> ssl.SSLContext:
        """A TLS context that trusts only `ca`. Raises OSError."""
        made = create_urllib3_context()
        made.verify_mode = ssl.CERT_REQUIRED
        made.check_hostname = True
        if self.ca.is_dir():
            made.load_verify_locations(capath=self.ca)
        else:
            made.load_verify_locations(cafile=self.ca)
        return made


# Cached, since it reads the process's environment and changes it for a moment.
@functools.lru_cache(maxsize=64)
def _is_direct(server: str, no_proxy: str) -> bool:
    return bool(should_bypass_proxies(server, no_proxy))


def read_network(environ: Mapping[str, str]) -> tuple[Network, list[str]]:
    """The network settings in these variables, and a message for each faulty one."""
    faults: list[str] = []
    ca, setting = Path(DEFAULT_CA_BUNDLE_PATH), ""
    for name in reversed(CA_SETTINGS):
        if value := environ.get(name, "").strip():
            ca, setting = Path(value), name
    if setting and (why := unusable(ca)):
        faults.append(f"{setting} names a file or directory of certificates that {why}")
    proxies = {}
    for scheme, name in _PROXY_SETTINGS.items():
        if proxy := _variable(environ, name):
            proxies[scheme] = proxy if "://" in proxy else f"http://{proxy}"
            if not _is_proxy(proxies[scheme]):
                faults.append(f"{name} is not the http(s) URL of a proxy")
    return Network(ca, proxies, _variable(environ, "NO_PROXY")), faults


def _variable(environ: Mapping[str, str], name: str) -> str:
    """The value; the name in lower case has priority (as in `requests`)."""
    return (environ.get(name.lower(), "") or environ.get(name, "")).strip()


def unusable(ca: Path) -> str | None:
    """Why this is not a file or directory of certificates; None if it is one."""
    try:
        if ca.is_dir():
            return None if any(ca.iterdir()) else "is empty"
        if not ca.is_file():
            return "does not exist"
    except OSError as error:
        return f"can't be opened ({error.strerror})"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca)
    except OSError:
        return "can't be read as certificates in PEM"
    return None


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        return False
    return usable and is_host(parts.hostname or "")


def is_host(name: str) -> bool:
    """Whether it is an IP address or a host name (RFC 1123, 2.1).

    Underscores are allowed too, since container networks use them.
    """
    if ":" in name:
        with suppress(ValueError):
            return bool(ipaddress.IPv6Address(name))
        return False
    labels = name.removesuffix(".").split(".")
    return len(name) <= 253 and all(re.fullmatch("[A-Za-z0-9_-]{1,63}", one) for one in labels)


def use_network(environ: Mapping[str, str]) -> dict[str, str]:
    """Use these network settings in this process, in place of those in its environment.

    Where none of a kind (CA, proxy) is set, those of the process are used. Returns all that are
    used. To be called before the first connection.
    """
    given = {name: text for name in _SETTINGS if (text := _variable(environ, name))}
    own = {name: text for name in _SETTINGS if (text := _variable(os.environ, name))}
    # One kind comes from one place: an ALL_PROXY given here is not for the process's HTTPS_PROXY.
    for kind in (set(CA_SETTINGS), set(_SETTINGS) - set(CA_SETTINGS)):
        if not kind.isdisjoint(given):
            own = {name: text for name, text in own.items() if name not in kind}
    used = own | given
    for name in _SETTINGS:
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    os.environ.update(used)
    return used


@functools.cache
def network() -> Network:
    """The network settings in the environment of this process."""
    return read_network(os.environ)[0]


@functools.cache
def tls_context(ca: str | None = None) -> ssl.SSLContext:
    """The TLS context of all connections, or of those that trust `ca` instead of the usual list.

    Cached, since reading the list takes longer than connecting.
    """
    return (replace(network(), ca=Path(ca)) if ca else network()).context()
