"""Whether an address lies in one of several networks, fast."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

CACHED_ADDRESSES = 16_384
"""So many addresses are kept in memory for each set of networks: about 2 MiB."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NoAddress(ValueError):
    """The value is no address."""


def membership(networks: Iterable[Network]) -> Callable[[Any], bool]:
    """Whether an address lies in one of these networks. Raises NoAddress, and TypeError."""
    ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for network in networks:
        ranges[network.version].append((int(network.netmask), int(network.network_address)))

    # Addresses come up again and again, and an unhashable one is none anyway.
    @functools.lru_cache(CACHED_ADDRESSES)
    def lies_in(address: Any) -> bool:
        version, number = _number(address)
        return any(number & mask == start for mask, start in ranges[version])

    return lies_in


def _number(address: Any) -> tuple[int, int]:
    """The version and the number of an address, in a fifth of the time of `ipaddress`."""
    if not isinstance(address, str):
        raise NoAddress(f"{address!r} is no address")
    version, family = (6, socket.AF_INET6) if ":" in address else (4, socket.AF_INET)
    try:
        return version, int.from_bytes(socket.inet_pton(family, address))
    except (OSError, ValueError):
        raise NoAddress(f"{address!r} is no address") from None
